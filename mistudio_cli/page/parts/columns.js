// Columns and tables that several views have.

import { Table, element, setText } from "../dom.js";
import { plain } from "../format.js";

export const jobHref = (id) => `#/jobs/${encodeURIComponent(id)}`;

// A column of links; a row without an address has its text alone. `more`: what else the column has, as `Table` takes it.
export function linkColumn(name, hrefOf, textOf, more = {}) {
  return {
    name,
    ...more,
    make: () => element("a"),
    update: (link, row) => {
      const href = hrefOf(row);
      if (href) link.setAttribute("href", href);
      setText(link, plain(textOf(row)));
    },
  };
}

// A table of names and values; its rows are [name, value].
export function pairsTable(caption, textOf = plain) {
  return new Table(caption, [
    { name: "Name", text: ([name]) => name },
    { name: "Value", text: ([, value]) => textOf(value) },
  ], ([name]) => name, { isNarrow: true });
}
