// Round values for the axis of a hand-drawn chart.

// Values within a range that are 1, 2 or 5 times a power of ten apart, at most `most` steps of them.
export function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

// A little below the least and above the greatest value, so that no mark is on an axis.
export function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = high === low ? Math.abs(high) * 0.1 || 1 : (high - low) * 0.08;
  return [low - room, high + room];
}
