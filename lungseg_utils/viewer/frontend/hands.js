// What the reader's hands do: wheel, keys, pointer.

Object.assign(Viewer.prototype, {
  _key(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const isText = event.target.matches?.("input[type=range]") && key.startsWith("Arrow");
    if (isText || event.altKey || event.metaKey) return;
    if (key in KEYS && this.view !== "3D") this.goTo(this.centre[PLANES[this.view].across] + KEYS[key]);
    else if (key === "Home") this.goTo(0);
    else if (key === "End") this.goTo(Infinity);
    else if (key === "n") this.nextTumour();
    else if (key === "z" && this.scan.editable) this.ask({ kind: "undo" });
    else if (key in TOOL_KEYS && this.scan.editable) this.setTool(TOOL_KEYS[key]);
    else if (key === "k" && this.scan.editable) this._toggle();
    else if (this.scan.windows[Number(key) - 1]) this.setWindow(this.scan.windows[Number(key) - 1][0]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  },

  _toggle() {
    const row = this.state.rows[this.selected];
    if (row?.kept !== undefined) this.ask({ kind: row.kept ? "drop" : "keep", peak: row.peak });
  },

  _wheel(event) {
    event.preventDefault();
    if (this.view === "3D") {
      this.solid.zoom = Math.min(6, Math.max(0.7, this.solid.zoom * Math.exp(-event.deltaY / 500)));
      this._turnSolid();
    } else if (event.ctrlKey) {
      const ratio = window.devicePixelRatio || 1;
      this.picture.zoomAt(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY, ratio);
      this.draw();
    } else {
      // a notch of a mouse is a slice; a trackpad's many small moves are added up
      this.turned = (this.turned || 0) + (event.deltaMode ? 50 * event.deltaY : event.deltaY);
      const steps = Math.abs(event.deltaY) >= 50 ? Math.sign(this.turned) : Math.trunc(this.turned / 40);
      if (!steps) return;
      this.turned = 0;
      this.goTo(this.centre[PLANES[this.view].across] - steps);
    }
  },

  _down(event) {
    this.main.focus({ preventScroll: true });
    this.main.setPointerCapture(event.pointerId);
    this.held = { x: event.offsetX, y: event.offsetY, window: [...this.window] };
    this.held.kind = this.view === "3D" ? "turn" : event.button === 2 ? "window" : event.shiftKey ? "pan" : this.tool;
    const voxel = this._voxel(event);
    if (this.held.kind === "add" && voxel) {
      this.message.textContent = "segmenting …";
      this.ask({ kind: "add", place: voxel });
    } else if (["paint", "erase"].includes(this.held.kind)) {
      this.stroke = [this.picture.voxel(event.offsetX, event.offsetY, this.centre)];
    }
    this._move(event);
  },

  _move(event) {
    const { held } = this;
    this.pointer = [event.offsetX, event.offsetY];
    const [dx, dy] = held ? [event.offsetX - held.x, event.offsetY - held.y] : [0, 0];
    const voxel = this._voxel(event);
    if (held?.kind === "turn") {
      this.solid.yaw += dx / 120;
      this.solid.pitch = Math.max(-1.5, Math.min(1.5, this.solid.pitch + dy / 120));
      Object.assign(held, { x: event.offsetX, y: event.offsetY });
      this._turnSolid();
      return;
    }
    if (held?.kind === "pan") {
      this.picture.pan(dx, dy, window.devicePixelRatio || 1);
      Object.assign(held, { x: event.offsetX, y: event.offsetY });
    } else if (held?.kind === "window") {
      const [low, high] = held.window;
      const half = Math.max(10, (high - low) / 2 + 2 * dx);
      const middle = (low + high) / 2 + 2 * dy;
      this.window = [middle - half, middle + half];
      this.windows.show("");
    } else if (held?.kind === "look" && voxel) {
      this.centre = voxel;
    } else if (held && this.stroke) {
      this.stroke.push(this.picture.voxel(event.offsetX, event.offsetY, this.centre));
    }
    if (voxel && this.view !== "3D") this._hover(voxel);
    if (held || this.tool !== "look") this.draw();
  },

  // Coarsely while it moves, where no graphics card draws it.
  _turnSolid() {
    this._drawSolid(false, this.solid.slow < 1 ? 0.5 : 1);
    this._solidSoon();
  },

  _up() {
    const { held, stroke } = this;
    this.held = null;
    if (!stroke || !held) return;
    const plane = this.ball.checked ? null : this.view;
    this.ask({ kind: "brush", points: stroke, radius: this.radius, plane, erase: held.kind === "erase" });
  },

  // The whole voxel under the pointer; null outside the scan and in 3D.
  _voxel(event) {
    if (this.view === "3D") return null;
    const voxel = this.picture.voxel(event.offsetX, event.offsetY, this.centre).map(Math.round);
    return voxel.every((index, axis) => index >= 0 && index < this.scan.shape[axis]) ? voxel : null;
  },

  // Say what is there at once, as exactly as the pictures know; Python knows the very number.
  _hover(voxel) {
    if (String(voxel) === String(this.hovered)) return;
    this.hovered = voxel;
    this._showPlace(voxel, null);
    clearTimeout(this.exactly);
    this.exactly = setTimeout(() => this.model.send({ kind: "hu", place: voxel }), 60);
  },

  _showPlace(voxel, hu) {
    const place = this.scan.world(voxel).map((mm) => mm.toFixed(1)).join(", ");
    const density = hu === null ? `≈ ${this.scan.hu(voxel)}` : String(Math.round(hu));
    const mask = this.scan.maskAt(voxel);
    const names = [[TRUTH, "truth"], [KEPT, this.scan.editable ? "kept" : "prediction"], [DROPPED, "dropped"]]
      .filter(([bit]) => mask & bit).map(([, name]) => name);
    this.place.textContent = signed([`${density} HU`, `${place} mm (RAS+)`,
      `slice ${voxel[0] + 1}, row ${voxel[1] + 1}, column ${voxel[2] + 1}`, ...names].join(" · "));
  },
});

export default {
  render({ model, el }) {
    const root = element("div", "lv", { "data-lm-suppress-shortcuts": "true" });
    el.append(root);
    const viewer = new Viewer(model, root);
    viewer.start();
    return () => viewer.resized.disconnect();
  },
};
