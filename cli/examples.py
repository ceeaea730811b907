"""Examples that end the help of each command. Every line is parsed by a test: its options exist."""

EXAMPLES = {
    "predict": (
        "tileseg predict slide.tif --tile 572 --out mask.zarr",
        "tileseg predict slide.svs --mpp model --objects nuclei.geojson",
        "tileseg predict slides/ --out-dir masks/",
        "tileseg predict --list slides.csv --dry-run",
    ),
    "objects": (
        "tileseg objects mask.zarr --out cells.geojson --out cells.csv",
        "tileseg objects labels.tif --out cells.csv --image slide.tif --min-area 20",
    ),
    "summary": ("tileseg summary masks/ --out summary.csv",),
    "tissue": (
        "tileseg tissue slide.svs --out tissue.geojson",
        "tileseg predict slide.svs --skip-empty tissue.geojson --out mask.zarr",
    ),
    "view": (
        "tileseg view slide.tif mask.zarr",
        "tileseg view slide.tif mask.zarr --annotate drawn.geojson",
    ),
    "preview": ("tileseg preview slide.tif mask.zarr --out overlay.png --roi 0:1000,0:1000",),
    "open": ("tileseg open mask.zarr --in napari > look.py",),
    "info": ("tileseg info slide.svs", "tileseg info mask.zarr --json"),
    "suggest": (
        "tileseg suggest mask.zarr --out places.geojson",
        "tileseg view slide.tif mask.zarr --places places.geojson --annotate drawn.geojson",
    ),
    "train": (
        "tileseg train em_data/",
        "tileseg train em_data/ --dry-run",
        "tileseg train em_data/ --budget 2h --base 64 --out runs/large",
        "tileseg train slide.svs --labels drawn.geojson",
        "tileseg train em_data/ --out runs/large --resume",
    ),
    "models": ("tileseg models",),
    "networks": ("tileseg networks",),
    "import": ("tileseg import weights.pth --network unet-same --out model.safetensors",),
    "export": ("tileseg export runs/em_data --to onnx --out model.onnx",),
    "verify": ("tileseg verify slide.tif", "tileseg verify slide.tif --model runs/em_data --precision fp32"),
    "evaluate": (
        "tileseg evaluate mask.zarr truth.tif",
        "tileseg evaluate masks/ labels/ --figure scores.png --image images/",
    ),
    "bench": ("tileseg bench", "tileseg bench slide.tif --seconds 30 --dir /scratch"),
    "status": ("tileseg status mask.zarr", "tileseg status masks/*.zarr --watch"),
    "finish": ("tileseg finish mask.zarr",),
    "completion": ("tileseg completion bash --install",),
}
