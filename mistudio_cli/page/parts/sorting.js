// The order of the rows of a page, by the header that was chosen; chosen again it turns round.

export class Sorting {
  constructor(repaint) {
    this.repaint = repaint;
    this.column = null;
    this.ascending = true;
  }

  choose(table, column) {
    this.ascending = this.column === column ? !this.ascending : true;
    this.column = column;
    table.markSorted(column.name, this.ascending);
    this.repaint();
  }

  of(rows) {
    if (!this.column) return rows;
    const [of, sign] = [this.column.sort, this.ascending ? 1 : -1];
    return [...rows].sort((one, other) => sign * (of(one) < of(other) ? -1 : of(one) > of(other) ? 1 : 0));
  }
}
