// One slice on a canvas: greys, outlines, sides of the patient, a bar of millimetres, a crosshair.

const BARS_MM = [1, 2, 5, 10, 20, 50, 100];

class Picture {
  constructor(scan, canvas) {
    this.scan = scan;
    this.canvas = canvas;
    this.page = document.createElement("canvas");
    this.zoom = 1;
    this.middle = null;  // of what is seen, in pixels of the slice; null: the whole slice
  }

  // Fit the canvas to its place on the screen.
  fit() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    return ratio;
  }

  _layout(plane) {
    const { rows, columns } = PLANES[plane];
    const [width, height] = [this.scan.shape[columns], this.scan.shape[rows]];
    const [mmX, mmY] = [this.scan.spacing[columns], this.scan.spacing[rows]];
    const whole = Math.min(this.canvas.width / (width * mmX), this.canvas.height / (height * mmY));
    const scale = whole * this.zoom;  // canvas pixels in a mm
    const [middleX, middleY] = this.middle || [width / 2, height / 2];
    this.stepX = scale * mmX;
    this.stepY = scale * mmY;
    this.left = this.canvas.width / 2 - middleX * this.stepX;
    this.top = this.canvas.height / 2 - middleY * this.stepY;
    this.scale = scale;
    this.plane = plane;
    return { width, height };
  }

  // The voxel (d, h, w), not rounded, under a place of the canvas in CSS pixels.
  voxel(x, y, centre) {
    const ratio = window.devicePixelRatio || 1;
    const { across, rows, columns } = PLANES[this.plane];
    const voxel = [];
    voxel[across] = centre[across];
    voxel[columns] = (x * ratio - this.left) / this.stepX - 0.5;
    const row = (y * ratio - this.top) / this.stepY - 0.5;
    voxel[rows] = rows === 0 ? this.scan.shape[0] - 1 - row : row;
    return voxel;
  }

  _place(voxel) {
    const { rows, columns } = PLANES[this.plane];
    const row = rows === 0 ? this.scan.shape[0] - 1 - voxel[0] : voxel[rows];
    return [this.left + (voxel[columns] + 0.5) * this.stepX, this.top + (row + 0.5) * this.stepY];
  }

  // Zoom by `factor` about a place of the canvas; the whole slice is the smallest.
  zoomAt(factor, x, y, ratio) {
    const at = [(x * ratio - this.left) / this.stepX, (y * ratio - this.top) / this.stepY];
    const zoom = Math.min(12, Math.max(1, this.zoom * factor));
    const share = this.zoom / zoom;
    const middle = [(this.canvas.width / 2 - this.left) / this.stepX,
      (this.canvas.height / 2 - this.top) / this.stepY];
    this.middle = zoom === 1 ? null : at.map((value, i) => value + (middle[i] - value) * share);
    this.zoom = zoom;
  }

  pan(dx, dy, ratio) {
    if (this.zoom === 1) return;
    this.middle = [this.middle[0] - (dx * ratio) / this.stepX, this.middle[1] - (dy * ratio) / this.stepY];
  }

  draw(plane, centre, look) {
    const ratio = this.fit();
    const context = this.canvas.getContext("2d");
    const { width, height } = this._layout(plane);
    context.fillStyle = "black";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const index = centre[PLANES[plane].across];
    const key = [plane, index, look.key, this.scan.loaded, this.scan.version].join();
    if (this.key !== key) this._cut(plane, index, look, width, height);
    this.key = key;
    context.imageSmoothingEnabled = true;
    const size = [width * this.stepX, height * this.stepY];
    context.drawImage(this.page, this.left, this.top, ...size);
    const [dropped, truth, kept] = this.lines;
    this._outline(context, dropped, "#c8c8c8", [1, 4], ratio, look.thin);
    this._outline(context, truth, look.colours.truth, [], ratio, look.thin);
    this._outline(context, kept, look.colours.prediction, [6, 4], ratio, look.thin);
    if (look.crosshair) this._crosshair(context, centre, ratio);
    if (!look.thin) this._annotate(context, ratio);
  }

  // Cut the scan anew: only where the slice, its masks or the window are others.
  _cut(plane, index, look, width, height) {
    const grey = this.scan.slice(this.scan.grey, plane, index);
    const masks = this.scan.slice(this.scan.masks, plane, index);
    this.page.width = width;
    this.page.height = height;
    this.page.getContext("2d").putImageData(this._colour(grey, masks, look), 0, 0);
    this.lines = [DROPPED, TRUTH, KEPT].map((bit) => outlines(masks, bit));
  }

  _colour(grey, masks, look) {
    const image = new ImageData(grey.width, grey.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) {
      const marked = look.opacity ? masks.pixels[i] & (TRUTH | KEPT) : 0;
      pixels[i] = look.tables[marked][grey.pixels[i]];
    }
    return image;
  }

  _outline(context, lines, colour, dashes, ratio, thin) {
    if (!lines.length) return;
    const path = new Path2D();
    for (const line of lines) {
      line.forEach(([x, y], i) => {
        const place = [this.left + (x + 0.5) * this.stepX, this.top + (y + 0.5) * this.stepY];
        if (i) path.lineTo(...place);
        else path.moveTo(...place);
      });
      path.closePath();
    }
    const width = (thin ? 1.3 : 2) * ratio;
    context.lineJoin = "round";
    context.setLineDash([]);
    context.strokeStyle = "rgba(0, 0, 0, 0.55)";
    context.lineWidth = width + 1.5 * ratio;
    if (!thin) context.stroke(path);
    context.setLineDash(dashes.map((length) => length * ratio * (thin ? 0.6 : 1)));
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke(path);
    context.setLineDash([]);
  }

  _crosshair(context, centre, ratio) {
    const [x, y] = this._place(centre);
    const gap = 9 * ratio;
    context.strokeStyle = "rgba(255, 255, 255, 0.5)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [fromX, fromY, toX, toY] of [
      [0, y, x - gap, y], [x + gap, y, this.canvas.width, y],
      [x, 0, x, y - gap], [x, y + gap, x, this.canvas.height],
    ]) {
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
    }
    context.stroke();
  }

  _annotate(context, ratio) {
    const { width, height } = this.canvas;
    const inset = 12 * ratio;
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "white";
    context.shadowColor = "black";
    context.shadowBlur = 3 * ratio;
    context.textBaseline = "middle";
    context.textAlign = "center";
    const places = [[inset, height / 2], [width - inset, height / 2], [width / 2, inset],
      [width / 2, height - inset]];
    PLANES[this.plane].letters.forEach((letter, i) => context.fillText(letter, ...places[i]));
    const bar = BARS_MM.filter((mm) => mm * this.scale < 0.3 * width).pop() || 1;
    const [x, y] = [inset, height - inset];
    context.fillRect(x, y - 2 * ratio, bar * this.scale, 3 * ratio);
    context.textAlign = "left";
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.fillText(`${bar} mm`, x, y - 12 * ratio);
    context.shadowBlur = 0;
  }

  // What the brush has covered since the button went down; Python answers with the voxels.
  drawStroke(points, radius, colour) {
    const context = this.canvas.getContext("2d");
    context.strokeStyle = colour;
    context.globalAlpha = 0.45;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Math.max(2, 2 * radius * this.scale);
    context.beginPath();
    points.forEach((point, i) => {
      if (i) context.lineTo(...this._place(point));
      else context.moveTo(...this._place(point));
    });
    context.lineTo(...this._place(points[points.length - 1]));
    context.stroke();
    context.globalAlpha = 1;
  }

  drawBrush(x, y, radius, ratio) {
    const context = this.canvas.getContext("2d");
    context.strokeStyle = "white";
    context.lineWidth = 1.2 * ratio;
    context.beginPath();
    context.arc(x * ratio, y * ratio, Math.max(2, radius * this.scale), 0, 2 * Math.PI);
    context.stroke();
  }
}
