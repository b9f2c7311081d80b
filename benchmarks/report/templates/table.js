// A click on a heading sorts a table, by numbers where cells begin with one, and a word filters its rows.
const number = (text) => parseFloat(text.replaceAll("\u2212", "-").replace("\u00d710", "e"));
for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      const order = (a, b) => {
        const [x, y] = [a, b].map((row) => row.cells[column].textContent.trim());
        // Cells without a number stay last.
        const lacking = isNaN(number(x)) - isNaN(number(y));
        return lacking || sign * (number(x) - number(y) || x.localeCompare(y, "en"));
      };
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      table.tBodies[0].append(...rows.sort(order));
    };
  });
  if (rows.length > 5) {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = input.ariaLabel = "Filter rows";
    input.oninput = () => {
      const word = input.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(word);
    };
    table.caption.append(input);
  }
}
