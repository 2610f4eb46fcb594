// The scan in 3D: rays through a coarse grid of masks, lungs of glass and faint bones (WebGL 2).

const MOST_CELLS = 176;  // along a side
const CORNERS = `#version 300 es
in vec2 corner;
out vec2 place;
void main() { place = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;
const RAYS = `#version 300 es
precision highp float;
precision highp sampler3D;
in vec2 place;
out vec4 colour;
uniform sampler3D cells;  // truth, prediction, lungs, bone
uniform vec3 halfBox, right, up, along, truthColour, predictionColour;
uniform vec2 view;  // half of what is seen, in mm
uniform bool hasTruth;
vec4 cellsAt(vec3 at) { return texture(cells, at / (2.0 * halfBox) + 0.5); }
vec3 normalAt(vec3 at, vec4 channel, float reach) {
  vec2 e = vec2(reach, 0.0);
  vec3 slope = vec3(
    dot(cellsAt(at + e.xyy) - cellsAt(at - e.xyy), channel),
    dot(cellsAt(at + e.yxy) - cellsAt(at - e.yxy), channel),
    dot(cellsAt(at + e.yyx) - cellsAt(at - e.yyx), channel));
  return -slope / max(length(slope), 1e-4);
}
void main() {
  vec3 start = right * place.x * view.x + up * place.y * view.y;
  vec3 near = (-halfBox - start) / along, far = (halfBox - start) / along;
  vec3 first = min(near, far), last = max(near, far);
  float from = max(max(first.x, first.y), first.z), to = min(min(last.x, last.y), last.z);
  vec3 light = normalize(-along + 0.6 * up - 0.4 * right);
  vec3 sum = vec3(0.0);
  float clear = 1.0;
  vec4 before = vec4(0.0);
  float step = 2.0 * length(halfBox) / 300.0;
  for (float t = from; t < to && clear > 0.03; t += step) {
    vec3 at = start + along * t;
    vec4 here = cellsAt(at);
    vec3 share = clamp((0.4 - before.rgb) / (here.rgb - before.rgb), 0.0, 1.0);
    bvec3 crossed = notEqual(greaterThan(before.rgb, vec3(0.4)), greaterThan(here.rgb, vec3(0.4)));
    if (crossed.b) {
      vec3 normal = normalAt(at - along * step * (1.0 - share.b), vec4(0, 0, 1, 0), 4.0);
      float rim = pow(1.0 - abs(dot(normal, along)), 2.0);
      float opacity = 0.12 + 0.5 * rim;
      sum += clear * opacity * vec3(0.80, 0.90, 1.0) * (0.65 + 0.45 * abs(dot(normal, light)));
      clear *= 1.0 - opacity;
    }
    if (crossed.g) {
      vec3 surface = at - along * step * (1.0 - share.g);
      vec3 normal = normalAt(surface, vec4(0, 1, 0, 0), 2.5);
      float opacity = !hasTruth ? 0.95 : fract(surface.z / 6.0) < 0.5 ? 0.9 : 0.08;  // rings
      sum += clear * opacity * predictionColour * (0.45 + 0.65 * max(0.0, dot(normal, light)));
      clear *= 1.0 - opacity;
    }
    if (crossed.r) {
      vec3 normal = normalAt(at - along * step * (1.0 - share.r), vec4(1, 0, 0, 0), 2.5);
      sum += clear * 0.95 * truthColour * (0.45 + 0.65 * max(0.0, dot(normal, light)));
      clear *= 0.05;
    }
    float bone = here.a * 0.03 * step;
    sum += clear * bone * vec3(0.95, 0.90, 0.80);
    clear *= 1.0 - bone;
    before = here;
  }
  colour = vec4(sum + clear * vec3(0.07, 0.09, 0.12), 1.0);
}`;

class Solid {
  constructor(scan, colours) {
    this.scan = scan;
    this.colours = colours;
    this.yaw = 0.35;
    this.pitch = 0.15;
    this.zoom = 1.25;
    this.slow = 1;  // share of the pixels' sides that is drawn where there is no graphics card
    this.canvas = document.createElement("canvas");
    this.gl = this.canvas.getContext("webgl2", { preserveDrawingBuffer: true });
    if (this.gl) this._prepare();
  }

  _prepare() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, CORNERS], [gl.FRAGMENT_SHADER, RAYS]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(gl.getAttribLocation(program, "corner"));
    gl.vertexAttribPointer(gl.getAttribLocation(program, "corner"), 2, gl.FLOAT, false, 0, 0);
    gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
    for (const name of ["MIN_FILTER", "MAG_FILTER"]) {
      gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_${name}`], gl.LINEAR);
    }
    for (const side of ["S", "T", "R"]) {
      gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_WRAP_${side}`], gl.CLAMP_TO_EDGE);
    }
    this.program = program;
    this.step = this.scan.shape.map((size) => Math.ceil(size / MOST_CELLS));
    this.size = this.scan.shape.map((size, axis) => Math.ceil(size / this.step[axis]));
    this.cells = new Uint8Array(4 * this.size[0] * this.size[1] * this.size[2]);
  }

  // What does not change: lungs (bits of a coarse grid) and bones.
  setBody(lungs, { shape, step }) {
    const { levels, grey } = this.scan;
    const bones = levels.map((hu) => Math.max(0, Math.min(255, (hu - 180) * 0.6)));
    const places = this.size.map((size, axis) => Float32Array.from({ length: size }, (_, index) =>
      Math.max(0, Math.min(shape[axis] - 1.001, ((index + 0.5) * this.step[axis]) / step[axis] - 0.5))));
    const is = (x, y, z) => {
      const bit = (x * shape[1] + y) * shape[2] + z;
      return (lungs[bit >> 3] >> (bit & 7)) & 1;
    };
    const between = (x, y, z) => {  // trilinear
      const [i, j, k] = [Math.floor(x), Math.floor(y), Math.floor(z)];
      const along = (a, b, share) => a + (b - a) * share;
      const row = (a, b) => along(is(a, b, k), is(a, b, Math.min(k + 1, shape[2] - 1)), z - k);
      const plane = (a) => along(row(a, j), row(a, Math.min(j + 1, shape[1] - 1)), y - j);
      return along(plane(i), plane(Math.min(i + 1, shape[0] - 1)), x - i);
    };
    let cell = 0;
    for (let d = 0; d < this.size[0]; d++) {
      for (let h = 0; h < this.size[1]; h++) {
        for (let w = 0; w < this.size[2]; w++, cell += 4) {
          const voxel = [d, h, w].map((index, axis) => index * this.step[axis]);
          const at = voxel[0] * this.scan.strides[0] + voxel[1] * this.scan.strides[1] + voxel[2];
          this.cells[cell + 2] = 255 * between(places[0][d], places[1][h], places[2][w]);
          this.cells[cell + 3] = bones[grey[at]];
        }
      }
    }
  }

  setMasks() {
    const [rows, row] = this.scan.strides;
    for (let cell = 0; cell < this.cells.length; cell += 4) this.cells[cell] = this.cells[cell + 1] = 0;
    for (const [channel, bit] of [[0, TRUTH], [1, KEPT]]) {
      this.scan.voxelsOf(bit, (voxel) => {
        const d = Math.floor(Math.floor(voxel / rows) / this.step[0]);
        const h = Math.floor(Math.floor((voxel % rows) / row) / this.step[1]);
        const w = Math.floor((voxel % row) / this.step[2]);
        this.cells[4 * ((d * this.size[1] + h) * this.size[2] + w) + channel] = 255;
      });
    }
    const gl = this.gl;
    const [depth, height, width] = this.size;
    gl.texImage3D(gl.TEXTURE_3D, 0, gl.RGBA8, width, height, depth, 0, gl.RGBA, gl.UNSIGNED_BYTE, this.cells);
  }

  // Draw on the 2D canvas `target`; `share` of the pixels' sides while it is turned.
  draw(target, share = 1) {
    const gl = this.gl;
    const began = performance.now();
    const width = Math.max(1, Math.round(target.width * share * this.slow));
    const height = Math.max(1, Math.round(target.height * share * this.slow));
    this.canvas.width = width;
    this.canvas.height = height;
    gl.viewport(0, 0, width, height);
    const set = (name, values) => gl[`uniform${values.length}fv`](gl.getUniformLocation(this.program, name), values);
    const box = [2, 1, 0].map((axis) => (this.size[axis] * this.step[axis] * this.scan.spacing[axis]) / 2);
    const [sinYaw, cosYaw] = [Math.sin(this.yaw), Math.cos(this.yaw)];
    const [sinPitch, cosPitch] = [Math.sin(this.pitch), Math.cos(this.pitch)];
    const half = (Math.max(...box) * 1.08) / this.zoom;
    set("halfBox", box);
    set("along", [sinYaw * cosPitch + 1e-4, cosYaw * cosPitch + 1e-4, -sinPitch + 1e-4]);
    set("right", [cosYaw, -sinYaw, 0]);
    set("up", [sinYaw * sinPitch, cosYaw * sinPitch, cosPitch]);
    set("view", [(half * width) / Math.min(width, height), (half * height) / Math.min(width, height)]);
    set("truthColour", parts(this.colours.truth).map((value) => value / 255));
    set("predictionColour", parts(this.colours.prediction).map((value) => value / 255));
    gl.uniform1i(gl.getUniformLocation(this.program, "hasTruth"), this.scan.truth ? 1 : 0);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    const context = target.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(this.canvas, 0, 0, target.width, target.height);
    if (performance.now() - began > 150) this.slow = Math.max(0.4, this.slow * 0.7);
  }
}

function parts(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}
