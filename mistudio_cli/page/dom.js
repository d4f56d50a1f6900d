// Elements from text: everything shown is set by textContent, never as markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "onclick") made.addEventListener("click", value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children);  // append makes text nodes of strings
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function setText(node, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

function classesOf(column) {
  return [column.number ? "number" : "", column.class ?? ""].join(" ").trim() || null;
}

// A table whose rows are kept by key, so that focus and hover survive an update.
// On a phone a row becomes a block, unless `options.isNarrow`.
// A column: {name, text(row)} or {name, make(row) -> node, update(node, row)}; {number: true} aligns right.
export class Table {
  constructor(caption, columns, key, options = {}) {
    this.columns = columns;
    this.key = key;
    this.options = options;
    this.rows = new Map();
    this.head = element("tr");
    for (const column of columns) this.head.append(this.header(column));
    this.body = element("tbody");
    const kind = options.isNarrow ? null : "stack";
    this.table = element("table", { class: kind }, element("caption", {}, caption), element("thead", {}, this.head), this.body);
    this.empty = element("p", { class: "dim" });
    this.node = element("div", { class: "scroll" }, this.table, this.empty);
  }

  header(column) {
    const cell = element("th", { scope: "col", class: classesOf(column) });
    if (this.options.sort && column.sort) {
      cell.append(element("button", { type: "button", onclick: () => this.options.sort(column) }, column.name));
    } else cell.append(column.name);
    return cell;
  }

  markSorted(name, ascending) {
    this.columns.forEach((column, index) => {
      const cell = this.head.children[index];
      if (column.name !== name) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const label = cell.querySelector("button");
      if (label) setText(label, column.name === name ? `${column.name} ${ascending ? "▲" : "▼"}` : column.name);
    });
  }

  show(items, whenEmpty) {
    const seen = new Set();
    let before = null;
    for (const item of items) {
      const key = String(this.key(item));
      if (seen.has(key)) continue;
      seen.add(key);
      const row = this.rows.get(key) ?? this.make(key, item);
      this.columns.forEach((column, index) => this.fill(row.children[index], column, item));
      const wanted = before ? before.nextSibling : this.body.firstChild;
      if (row !== wanted) this.body.insertBefore(row, wanted);
      before = row;
    }
    for (const [key, row] of this.rows) {
      if (seen.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    setText(this.empty, items.length ? "" : whenEmpty);
    this.table.classList.toggle("empty", !items.length);
  }

  make(key, item) {
    const row = element("tr");
    for (const column of this.columns) {
      const cell = element("td", { "data-label": column.name, class: classesOf(column) });
      if (column.make) cell.append(column.make(item));
      row.append(cell);
    }
    this.rows.set(key, row);
    return row;
  }

  fill(cell, column, item) {
    if (column.make) column.update(cell.firstChild, item);
    else setText(cell, column.text(item));
  }
}
