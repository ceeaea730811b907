"""The request of the places that a page lists."""

from http import HTTPStatus

from tornado.web import HTTPError

from tilesegment.viewer.handler import Handler


class PlacesRequest(Handler):
    """The places, with the name of their file; 404 if none were named."""

    def get(self) -> None:
        """Send them."""
        places = self.view.scene.places
        if places is None:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        self.answer(places.as_json())
