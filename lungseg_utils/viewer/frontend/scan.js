// The scan in the browser: grey levels, decoded slice by slice, and the masks on the same grid.

const TRUTH = 1, KEPT = 2, DROPPED = 4;  // bits of the masks

// Arrays are (D, H, W): towards the head, the back and the patient's left.
const PLANES = {
  axial: { across: 0, rows: 1, columns: 2, letters: ["R", "L", "A", "P"] },
  coronal: { across: 1, rows: 0, columns: 2, letters: ["R", "L", "H", "F"] },
  sagittal: { across: 2, rows: 0, columns: 1, letters: ["A", "P", "H", "F"] },
};

async function inflate(view) {
  if (!view || !view.byteLength) return new Uint8Array(0);
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Scan {
  constructor(facts) {
    Object.assign(this, facts);  // shape, spacing, affine, levels, sizes, centre, …
    const [depth, height, width] = this.shape;
    this.strides = [height * width, width, 1];
    this.grey = new Uint8Array(depth * height * width);
    this.masks = new Uint8Array(depth * height * width);
    this.runs = {};
    this.loaded = 0;
    this.version = 0;  // of the masks
  }

  // Decode the slices, those next to the tumour first; `shown` is called as they come.
  async load(bytes, shown) {
    const [depth, height, width] = this.shape;
    const starts = [];
    this.sizes.reduce((start, size) => { starts.push(start); return start + size; }, 0);
    const order = [...this.sizes.keys()];
    order.sort((a, b) => Math.abs(a - this.centre[0]) - Math.abs(b - this.centre[0]));
    const options = { colorSpaceConversion: "none" };
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    let paused = performance.now();
    for (const d of order) {
      const part = new DataView(bytes.buffer, bytes.byteOffset + starts[d], this.sizes[d]);
      const picture = await createImageBitmap(new Blob([part], { type: "image/jpeg" }), options);
      context.drawImage(picture, 0, 0);
      picture.close();
      const pixels = context.getImageData(0, 0, width, height).data;
      const first = d * height * width;
      for (let i = 0; i < height * width; i++) this.grey[first + i] = pixels[4 * i];
      this.loaded += 1;
      if (performance.now() - paused > 100) {
        shown();
        await new Promise(requestAnimationFrame);
        paused = performance.now();
      }
    }
    shown();
  }

  // Take the runs (gap, length, gap, length …) of one mask; what it had before is forgotten.
  async setMask(bit, packed) {
    const bytes = await inflate(packed);
    const runs = new Uint32Array(bytes.buffer, 0, bytes.length / 4);
    this._paint(this.runs[bit], (i) => { this.masks[i] &= ~bit; });
    this._paint(runs, (i) => { this.masks[i] |= bit; });
    this.runs[bit] = runs;
    this.version += 1;
  }

  _paint(runs, change) {
    let at = 0;
    for (let r = 0; runs && r < runs.length; r += 2) {
      at += runs[r];
      for (const end = at + runs[r + 1]; at < end; at++) change(at);
    }
  }

  voxelsOf(bit, visit) { this._paint(this.runs[bit], visit); }

  // A slice of `values`, as {pixels, width, height}; rows along D run downwards from the head.
  slice(values, plane, index) {
    const { across, rows, columns } = PLANES[plane];
    const height = this.shape[rows], width = this.shape[columns];
    const pixels = new Uint8Array(width * height);
    const [stepRow, stepColumn] = [this.strides[rows], this.strides[columns]];
    for (let row = 0, out = 0; row < height; row++) {
      const line = rows === 0 ? height - 1 - row : row;
      let from = index * this.strides[across] + line * stepRow;
      for (let column = 0; column < width; column++, from += stepColumn) pixels[out++] = values[from];
    }
    return { pixels, width, height };
  }

  world(voxel) {
    return [0, 1, 2].map((axis) => this.affine[axis].slice(0, 3)
      .reduce((sum, value, i) => sum + value * voxel[i], this.affine[axis][3]));
  }

  hu(voxel) {
    const at = voxel.reduce((sum, index, axis) => sum + index * this.strides[axis], 0);
    return Math.round(this.levels[this.grey[at]]);
  }

  maskAt(voxel) {
    return this.masks[voxel.reduce((sum, index, axis) => sum + index * this.strides[axis], 0)];
  }
}
