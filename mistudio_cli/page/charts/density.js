// The histogram of feature densities: how many features are active on which share of tokens, drawn and as a table.

import { Table, element, svg } from "../dom.js";
import { countOf, whole } from "../format.js";

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [360, 180, 44, 14, 34];

const areCounts = (values) => Array.isArray(values) && values.every((value) => Number.isInteger(value) && value >= 0);

// A figure; null for what is no histogram, as in a damaged file.
export function densityFigure(histogram) {
  const { counts, log10_edges: edges, never } = histogram ?? {};
  const isSound = areCounts(counts) && counts.length && areCounts([never]) && Array.isArray(edges)
    && edges.length === counts.length + 1 && edges.every(Number.isFinite);
  if (!isSound) return null;
  const total = never + counts.reduce((sum, count) => sum + count, 0);
  const words = `${whole(never)} of ${countOf(total, "feature")} never fired on the held-out tokens.`;
  return element("figure", { class: "density" }, element("figcaption", {}, `Feature density: ${words}`),
    bars(counts, edges, words), element("details", {}, element("summary", {}, "As a table"), table(counts, edges, never)));
}

function bars(counts, edges, words) {
  const highest = Math.max(1, ...counts);
  const step = (WIDTH - LEFT) / counts.length;
  const bottom = HEIGHT - BOTTOM;
  const y = (count) => bottom - (count / highest) * (bottom - TOP);
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Histogram of feature densities. ${words} The table has each bar.` });
  counts.forEach((count, place) => {
    drawn.append(svg("rect", { x: LEFT + place * step + 1, y: y(count), width: Math.max(1, step - 2), height: bottom - y(count) }));
  });
  drawn.append(svg("line", { x1: LEFT, x2: WIDTH, y1: bottom, y2: bottom }));
  edges.forEach((edge, place) => {
    const anchor = place === counts.length ? "end" : "middle";
    if (Number.isInteger(edge)) drawn.append(svg("text", { x: LEFT + place * step, y: bottom + 14, "text-anchor": anchor }, `1e${edge}`));
  });
  drawn.append(svg("text", { x: LEFT - 4, y: TOP + 4, "text-anchor": "end" }, String(highest)),
    svg("text", { x: LEFT - 4, y: bottom, "text-anchor": "end" }, "0"),
    svg("text", { x: LEFT + (WIDTH - LEFT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "fraction of tokens on which a feature is active"));
  return drawn;
}

function table(counts, edges, never) {
  const made = new Table("Features by density", [
    { name: "From", text: (row) => row.from },
    { name: "Up to", text: (row) => row.to },
    { name: "Features", number: true, text: (row) => row.count },
  ], (row) => row.from);
  const rows = counts.map((count, place) => ({ from: `1e${edges[place]}`, to: `1e${edges[place + 1]}`, count }));
  made.show([{ from: "never", to: "", count: never }, ...rows], "");
  return made.node;
}
