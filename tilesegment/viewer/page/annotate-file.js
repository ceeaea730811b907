// The file on the server: stored whole after each step, and only in place of the version that was loaded.

const PAUSE = 4000; // milliseconds between looks at whether another browser or program has stored

export class AnnotationFile {
  /**
   * address: of the annotations on the server; text(): what to store.
   * tell(state, message): `loaded`, `saved`, `saving`, `unsaved` (will be tried again), `refused`, `changed` (by another).
   */
  constructor(address, text, tell) {
    Object.assign(this, { address, text, tell, version: null, isSaving: false, isDirty: false, isHeld: false, isRefused: false });
    this.changes = 0;
    setInterval(() => this.look(), PAUSE);
    addEventListener("beforeunload", (event) => {
      if (this.isDirty || this.isSaving) event.preventDefault();
    });
  }

  /** Load the file; returns its document. */
  async load() {
    const response = await fetch(this.address, { cache: "no-store" });
    if (!response.ok) throw new Error(await messageOf(response));
    const found = await response.json();
    this.version = response.headers.get("ETag");
    [this.isDirty, this.isHeld, this.isRefused] = [false, false, false];
    this.tell("loaded", "");
    return found;
  }

  /** Store what there is now; call it after each step. While a conflict stands nothing is stored. */
  async save() {
    this.isDirty = true;
    this.isRefused = false;
    this.changes++;
    if (this.isSaving || this.isHeld) return;
    this.isSaving = true;
    try {
      while (this.isDirty && !this.isHeld) {
        this.tell("saving", "");
        if (!(await this.put())) break;
      }
    } finally {
      this.isSaving = false;
    }
  }

  /** Returns whether it is stored. */
  async put() {
    const changes = this.changes;
    let response;
    try {
      const headers = { "Content-Type": "application/geo+json", "If-Match": this.version };
      response = await fetch(this.address, { method: "PUT", headers, body: this.text() });
    } catch {
      this.tell("unsaved", "the server does not answer");
      return false;
    }
    if (response.ok) {
      this.version = response.headers.get("ETag");
      this.isDirty = this.changes !== changes;
      if (!this.isDirty) this.tell("saved", "");
      return true;
    }
    this.isHeld = response.status === 409;
    this.isRefused = !this.isHeld && response.status < 500;
    this.tell(this.isHeld ? "changed" : "refused", await messageOf(response));
    return false;
  }

  /** See whether another has stored; try again what could not be stored. */
  async look() {
    if (this.version === null || this.isSaving || this.isHeld || this.isRefused || document.hidden) return;
    if (this.isDirty) return this.save();
    const version = this.version;
    try {
      const response = await fetch(this.address, { cache: "no-store", headers: { "If-None-Match": version } });
      if (response.ok && !this.isSaving && !this.isDirty && version === this.version) {
        this.isHeld = true;
        this.tell("changed", "the file has been changed by another browser or program");
      }
    } catch {
      // the next step, or the next look, tells
    }
  }
}

async function messageOf(response) {
  try {
    return (await response.json()).error ?? response.statusText;
  } catch {
    return response.statusText;
  }
}
