// The numbers of a chart: several lines over one axis, gaps, and smoothing.

const isMissing = (value) => value === null || value === undefined;

// Ascending positions, and a column for each line: its value at each, null for a gap, undefined where it has no point.
export function aligned(series) {
  const positions = [...new Set(series.flatMap(({ at }) => at.filter(Number.isFinite)))].sort((one, other) => one - other);
  const places = new Map(positions.map((x, place) => [x, place]));
  const columns = series.map(({ at, values }) => {
    const column = Array(positions.length).fill(undefined);
    at.forEach((x, index) => {
      if (places.has(x)) column[places.get(x)] = Number.isFinite(values[index]) ? values[index] : null;
    });
    return column;
  });
  return { positions, columns };
}

// Exponential moving average without the bias of its start, as TensorBoard has it: weight 0 changes nothing. Gaps stay.
export function smoothed(column, weight) {
  let [average, count] = [0, 0];
  return column.map((value) => {
    if (isMissing(value)) return value;
    average = weight * average + (1 - weight) * value;
    count += 1;
    return average / (1 - weight ** count);
  });
}

// What a log scale can show: other values are gaps.
export function positive(column) {
  return column.map((value) => !isMissing(value) && value <= 0 ? null : value);
}

export function count(columns, isWanted) {
  return columns.reduce((sum, column) => sum + column.filter(isWanted).length, 0);
}

// Places of values between two gaps, which no line would show.
export function lone(column) {
  const known = column.map((value, place) => [value, place]).filter(([value]) => value !== undefined);
  const isGap = (index) => isMissing(known[index]?.[0]);
  return known.filter(([value], index) => value !== null && isGap(index - 1) && isGap(index + 1)).map(([, place]) => place);
}

export function firstAndLast(column) {
  const known = column.map((value, place) => place).filter((place) => !isMissing(column[place]));
  return known.length ? [known[0], known.at(-1)] : null;
}
