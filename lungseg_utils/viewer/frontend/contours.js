// Outlines of a mask: closed lines half-way between marked pixels and their neighbours.

// For each of the 16 corners' patterns (1 top left, 2 top right, 4 bottom right, 8 bottom left)
// the sides that lines run from and to: 0 top, 1 right, 2 bottom, 3 left; marked pixels on the right.
const CASES = [
  [], [[0, 3]], [[1, 0]], [[1, 3]], [[2, 1]], [[0, 3], [2, 1]], [[2, 0]], [[2, 3]],
  [[3, 2]], [[0, 2]], [[1, 0], [3, 2]], [[1, 2]], [[3, 1]], [[0, 1]], [[3, 0]], [],
];
const MIDDLES = [[1, 0], [2, 1], [1, 2], [0, 1]];  // of the sides, in half pixels

// Return lines [[x, y], …] in pixels, whose centres are whole numbers.
function outlines({ pixels, width, height }, bit) {
  let top = height, bottom = -1, left = width, right = -1;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (pixels[i] & bit) {
        if (y < top) top = y;
        if (y > bottom) bottom = y;
        if (x < left) left = x;
        if (x > right) right = x;
      }
    }
  }
  const is = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] & bit ? 1 : 0;
  const step = 2 * width + 4;
  const next = new Map();
  for (let y = top - 1; y <= bottom; y++) {
    for (let x = left - 1; x <= right; x++) {
      const pattern = is(x, y) + 2 * is(x + 1, y) + 4 * is(x + 1, y + 1) + 8 * is(x, y + 1);
      for (const [from, to] of CASES[pattern]) {
        const [start, end] = [from, to].map((side) =>
          (2 * y + 2 + MIDDLES[side][1]) * step + 2 * x + 2 + MIDDLES[side][0]);
        next.set(start, end);
      }
    }
  }
  const lines = [];
  while (next.size) {
    const line = [];
    let at = next.keys().next().value;
    while (next.has(at)) {
      line.push([(at % step) / 2 - 1, Math.floor(at / step) / 2 - 1]);
      const end = next.get(at);
      next.delete(at);
      at = end;
    }
    lines.push(line);
  }
  return lines;
}
