// The widget: slices and 3D side by side, one state; Python decides, this shows and asks.

const VIEWS = ["axial", "coronal", "sagittal", "3D"];
const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
const TOOL_KEYS = { l: "look", a: "add", b: "paint", e: "erase" };
const HELP = "wheel, ↑ ↓: slice · Ctrl + wheel: zoom · Shift + drag: pan · right drag: brightness";
const HELP_3D = "drag: turn · wheel: zoom";

class Viewer {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.scan = new Scan(model.get("scan"));
    this.centre = [...this.scan.centre];
    this.view = "axial";
    this.window = this.scan.windows[0].slice(1);
    this.opacity = this.scan.editable ? 0.2 : 0;
    this.tool = "look";
    this.radius = 5;
    this.selected = -1;
    this.asked = 0;
    this.waiting = 0;  // the number of a question about the threshold, until it is answered
    this.wanted = null;  // the threshold to ask for next
    this.queue = Promise.resolve();
    this._build();
    this._listen();
  }

  _build() {
    const { scan } = this;
    this.planes = buttons(VIEWS.map((name) => [name, name[0].toUpperCase() + name.slice(1)]), this.view,
      (name) => this.show(name));
    this.windows = buttons(scan.windows.map(([name, low, high], i) =>
      [name, name, `${low} to ${high} HU (${i + 1})`]), scan.windows[0][0], (name) => this.setWindow(name));
    this.fill = slider("fill", (value) => `${Math.round(100 * value)} %`, 0, 1, 0.05, this.opacity,
      (value) => { this.opacity = value; this.draw(); });
    this.main = element("canvas", "lv-main", { tabindex: 0, "aria-label": "slice" });
    this.slice = slider("slice", (value) => this._sliceText(value), 1, 1, 1, 1,
      (value) => this.goTo(value - 1));
    this.others = [0, 1, 2].map(() => {
      const canvas = element("canvas", "");
      const label = element("span", "");
      const made = element("div", "lv-other", { title: "show it large" }, canvas, label);
      made.addEventListener("click", () => this.show(made.dataset.view));
      return Object.assign(made, { canvas, label, picture: new Picture(scan, canvas) });
    });
    this.picture = new Picture(scan, this.main);
    this.solid = new Solid(scan, scan.colours);
    this.list = element("div", "lv-list");
    this.scores = element("div", "lv-scores", { "aria-live": "polite" });
    this.place = element("span", "lv-place", {}, HELP);
    this.message = element("span", "lv-message", { role: "status" });
    this.next = element("button", "lv-next", { type: "button", title: "the next tumour of the list (N)",
      onclick: () => this.nextTumour() }, "Next tumour");
    const panel = element("div", "lv-panel", {}, ...(scan.editable ? this._tools() : []),
      element("div", "lv-head", {}, element("b", "", {}, "Tumours"), this.next), this.list);
    const others = element("div", "lv-others", {}, ...this.others);
    this.root.append(
      element("div", "lv-bar", {}, this.planes, this.windows, this.fill, legend(scan)),
      element("div", "lv-stage", {}, element("div", "lv-large", {}, this.main, this.slice), others, panel),
      element("div", "lv-foot", {}, this.place, this.message));
    this.show("axial");
  }

  _tools() {
    this.toolButtons = buttons(TOOLS, this.tool, (tool) => this.setTool(tool));
    this.brush = slider("brush", (value) => `${value} mm`, 1, 20, 1, this.radius,
      (value) => { this.radius = value; });
    this.ball = element("input", "", { type: "checkbox" });
    this.brush.append(element("label", "lv-ball", { title: "paint in 3D, not in this slice alone" },
      this.ball, "ball"));
    this.undo = element("button", "", { type: "button", title: "take the last step back (Z)",
      onclick: () => this.ask({ kind: "undo" }) }, "Undo");
    const save = element("button", "lv-save", { type: "button", title: "write the corrected mask",
      onclick: () => this.ask({ kind: "save" }) }, "Save");
    const threshold = this.model.get("state").threshold;
    this.threshold = slider("threshold", (value) => value.toFixed(2), 0.02, 0.99, 0.01, threshold,
      (value) => { this.wanted = value; this._askThreshold(); });
    return [this.threshold, this.scores, this.toolButtons, this.brush,
      element("div", "lv-buttons lv-actions", {}, this.undo, save)];
  }

  _listen() {
    const { main, root } = this;
    root.addEventListener("keydown", (event) => this._key(event));
    root.addEventListener("contextmenu", (event) => event.preventDefault());
    main.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    main.addEventListener("pointerdown", (event) => this._down(event));
    main.addEventListener("pointermove", (event) => this._move(event));
    main.addEventListener("pointerup", () => this._up());
    main.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
    this.model.on("change:state", () => this._take());
    this.model.on("msg:custom", (message) => this._showHu(message));
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(root);
  }

  async start() {
    await this._take();
    await this.scan.load(this.model.get("slices"), () => this.draw());
    if (this.solid.gl) this.solid.setBody(await inflate(this.model.get("lungs")), this.scan.lungs);
    this.root.dataset.loaded = "true";
    this._solidSoon();
  }

  // --- asking and taking ---------------------------------------------------------------------

  ask(content) {
    this.asked += 1;
    this.model.send({ ...content, asked: this.asked });
  }

  _askThreshold() {
    if (this.wanted === null || this.waiting) return;
    const value = this.wanted;
    this.wanted = null;
    this.waiting = this.asked + 1;
    this.ask({ kind: "threshold", value });
  }

  _take() {
    this.queue = this.queue.then(async () => {
      const state = this.model.get("state");
      for (const [bit, name] of [[TRUTH, "truth"], [KEPT, "kept"], [DROPPED, "dropped"]]) {
        const packed = this.model.get(name);
        if (this[`_${name}`] !== packed) await this.scan.setMask(bit, packed);
        this[`_${name}`] = packed;
      }
      this.state = state;
      this.stroke = null;
      this.root.dataset.answered = state.answered;
      if (this.waiting && state.answered >= this.waiting) {
        const bytes = this._kept.byteLength + this._dropped.byteLength;
        setTimeout(() => { this.waiting = 0; this._askThreshold(); }, bytes / 400);  // < 0.4 MB a second
      }
      this._showState();
      this.draw();
      this._solidSoon();
    });
    return this.queue;
  }

  _showState() {
    const { state } = this;
    const actions = {
      show: (row) => this.showRow(state.rows.indexOf(row)),
      decide: ({ peak }, isKept) => this.ask({ kind: isKept ? "keep" : "drop", peak }),
    };
    this.list.replaceChildren(...state.rows.map((row) => rowOf(row, actions)));
    if (!state.rows.length) this.list.append(element("p", "", {}, "nothing is marked"));
    this._select(this._rowNear(this.chosen));
    if (!this.scan.editable) return;
    if (this.wanted === null && !this.waiting) this.threshold.show(state.threshold);
    this.scores.replaceChildren(...scoreText(state.scores).map(([value, name]) =>
      element("div", "", {}, element("b", "", {}, value), element("span", "", {}, name))));
    this.undo.disabled = !state.canUndo;
    this.message.textContent = this.message.title = signed(state.message);
  }

  _showHu({ kind, place, hu }) {
    if (kind === "hu" && String(place) === String(this.hovered)) this._showPlace(place, hu);
  }

  // --- what is seen --------------------------------------------------------------------------

  show(view) {
    this.view = view;
    this.planes.show(view);
    const rest = VIEWS.filter((name) => name !== view);
    this.others.forEach((other, i) => {
      other.dataset.view = rest[i];
      other.label.textContent = rest[i];
    });
    this.picture.zoom = 1;
    this.picture.middle = null;
    this.place.textContent = view === "3D" ? HELP_3D : HELP;
    this.slice.style.visibility = view === "3D" ? "hidden" : "visible";
    this.draw();
    this._solidSoon();
  }

  setWindow(name) {
    this.windows.show(name);
    this.window = this.scan.windows.find(([own]) => own === name).slice(1);
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    this.toolButtons.show(tool);
    this.main.dataset.tool = tool;
    this.draw();
  }

  goTo(index) {
    if (this.view === "3D") return;
    const { across } = PLANES[this.view];
    this.centre[across] = Math.max(0, Math.min(this.scan.shape[across] - 1, index));
    this.draw();
  }

  showRow(index) {
    const row = this.state.rows[index];
    if (!row) return;
    this.centre = [...row.centre];
    this.chosen = row.centre;
    this._select(index);
    if (this.picture.zoom > 1) this.picture.middle = null;
    this.picture.zoom = 1;
    this.draw();
  }

  nextTumour() {
    if (this.state.rows.length) this.showRow((this.selected + 1) % this.state.rows.length);
  }

  _select(index) {
    this.selected = index;
    [...this.list.children].forEach((row, i) => row.classList.toggle("lv-is-selected", i === index));
    this.list.children[index]?.scrollIntoView?.({ block: "nearest" });
  }

  // The row of what was chosen: marks change their number and their middle with the threshold.
  _rowNear(place) {
    if (!place) return -1;
    const apart = this.state.rows.map(({ centre }) =>
      Math.hypot(...centre.map((index, axis) => (index - place[axis]) * this.scan.spacing[axis])));
    const nearest = apart.indexOf(Math.min(...apart));
    return apart[nearest] < 10 ? nearest : -1;  // mm
  }

  _sliceText(value) {
    return this.view === "3D" ? "" : `${value} of ${this.scan.shape[PLANES[this.view].across]}`;
  }

  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this._draw();
    });
  }

  _draw() {
    const { scan, centre } = this;
    const tables = this._tables();
    const look = { colours: scan.colours, opacity: this.opacity, crosshair: true, tables, key: this.tablesKey };
    for (const { picture, dataset } of this.others) {
      if (dataset.view !== "3D") picture.draw(dataset.view, centre, { ...look, thin: true });
    }
    if (this.view === "3D") return this._drawSolid();
    const { across } = PLANES[this.view];
    this.slice.input.max = scan.shape[across];  // and only then the value
    this.slice.show(centre[across] + 1);
    this.picture.draw(this.view, centre, { ...look, crosshair: this.tool === "look" });
    const ratio = window.devicePixelRatio || 1;
    const { prediction } = scan.colours;
    if (this.stroke) this.picture.drawStroke(this.stroke, this.radius, this.tool === "erase" ? "#fff" : prediction);
    if (this.pointer && ["paint", "erase"].includes(this.tool)) {
      this.picture.drawBrush(...this.pointer, this.radius, ratio);
    }
  }

  // The colour of each grey level: plain, in truth, in the prediction, in both.
  _tables() {
    const key = [this.window, this.opacity].join();
    if (this.tablesKey === key) return this.tables;
    const { levels, colours } = this.scan;
    const [low, high] = this.window;
    const truth = parts(colours.truth), kept = parts(colours.prediction);
    const tints = [null, truth, kept, truth.map((value, i) => (value + kept[i]) / 2)];
    this.tables = [0, 1, 2, 3].map((marked) => Uint32Array.from(levels, (hu) => {
      const grey = 255 * Math.max(0, Math.min(1, (hu - low) / (high - low)));
      const share = marked ? this.opacity : 0;
      const [red, green, blue] = [0, 1, 2].map((i) =>
        Math.round(grey * (1 - share) + (share ? tints[marked][i] * share : 0)));
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }));
    this.tablesKey = key;
    return this.tables;
  }

  _solidSoon() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.solid.gl && this.root.dataset.loaded && this._drawSolid(true), 250);
  }

  _drawSolid(isNew = false, share = 1) {
    const other = this.others.find(({ dataset }) => dataset.view === "3D");
    const picture = other ? other.picture : this.picture;
    picture.fit();
    if (!this.solid.gl) {
      const context = picture.canvas.getContext("2d");
      context.fillStyle = "#999";
      context.fillText("3D needs WebGL 2", 10, 30);
      return;
    }
    if (!this.root.dataset.loaded) return;
    if (isNew) this.solid.setMasks();
    this.solid.draw(picture.canvas, share);
  }
}
