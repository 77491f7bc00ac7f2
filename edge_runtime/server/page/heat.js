// Heat: a heatmap's numbers as a picture. The same arithmetic as edge_runtime's heatmap.Placement.enlarge and
// overlay.outlined, so that the page shows what the command line draws; the tests hold one to the other.

const INFERNO = (
  "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 " +
  "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
).split(" ").map((word) => [0, 2, 4].map((at) => parseInt(word.slice(at, at + 2), 16)));

export const LEVEL = 0.5; // of the peak: where the contour runs

function weights(cells, px, placement) {
  return Array.from({ length: px }, (_, i) => {
    const centre = ((i + 0.5) * placement.input_px) / px;
    const place = Math.min(Math.max((centre - placement.first_px) / placement.step_px, 0), cells - 1);
    const first = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    const share = place - first;
    return cells === 1 ? [0, 0, 0] : [first, first + 1, share];
  });
}

// Rows of numbers -> Float64Array of px * px, bilinear; beyond the outermost centres their values go on.
export function enlarge(rows, placement, px) {
  const down = weights(rows.length, px, placement);
  const across = weights(rows[0].length, px, placement);
  const values = new Float64Array(px * px);
  for (let y = 0; y < px; y++) {
    const [top, bottom, v] = down[y];
    for (let x = 0; x < px; x++) {
      const [left, right, u] = across[x];
      const upper = rows[top][left] * (1 - u) + rows[top][right] * u;
      const lower = rows[bottom][left] * (1 - u) + rows[bottom][right] * u;
      values[y * px + x] = upper * (1 - v) + lower * v;
    }
  }
  return values;
}

// 0..1 -> [red, green, blue], black to cream, evenly in lightness.
export function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (INFERNO.length - 1);
  const first = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[first].map((low, c) => Math.round(low + (INFERNO[first + 1][c] - low) * (place - first)));
}

function sheet(px) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = px;
  return canvas;
}

// A heatmap, ready to be laid over a picture of px * px: its colours, and the line around what is hot.
export function layers(rows, placement, px) {
  const values = enlarge(rows, placement, px);
  const heat = sheet(px);
  const image = new ImageData(px, px);
  values.forEach((value, i) => image.data.set([...colour(value), 255], 4 * i));
  heat.getContext("2d").putImageData(image, 0, 0);

  const line = sheet(px);
  const peak = values.reduce((a, b) => Math.max(a, b), 0);
  const hot = (x, y) => values[y * px + x] >= LEVEL * peak;
  const rim = [];
  for (let y = 0; peak > 0 && y < px; y++)
    for (let x = 0; x < px; x++) {
      const around = [[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]];
      const inner = ([a, b]) => a < 0 || b < 0 || a >= px || b >= px || hot(a, b);
      if (hot(x, y) && !around.every(inner)) rim.push([x, y]);
    }
  const pen = line.getContext("2d");
  for (const [shade, reach] of [["black", 2], ["white", 1]]) {
    pen.fillStyle = shade;
    for (const [x, y] of rim) pen.fillRect(x - reach, y - reach, 2 * reach + 1, 2 * reach + 1);
  }
  return { heat, line };
}

// Draw a picture with its heatmap; strength 0..1 is the heat's share of the blend.
export function draw(canvas, picture, over, strength) {
  const pen = canvas.getContext("2d");
  pen.globalAlpha = 1;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!strength) return;
  pen.globalAlpha = strength;
  pen.drawImage(over.heat, 0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 1;
  if (over.line) pen.drawImage(over.line, 0, 0, canvas.width, canvas.height);
}
