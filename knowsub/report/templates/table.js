"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("facts-data").textContent);
  const body = document.querySelector("#facts-table tbody");
  const headings = [...document.querySelectorAll("#facts-table thead th")];
  const search = document.getElementById("facts-search");
  const filters = [...document.querySelectorAll("select[data-column]")];
  const count = document.getElementById("facts-count");
  const more = document.getElementById("facts-more");
  const PAGE = 100;
  let shown = PAGE, column = -1, down = false;

  const names = headings.map((heading) => heading.textContent.trim());
  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    search.value = wanted.get("filter") || "";
    for (const filter of filters) filter.value = wanted.get(filter.name) ?? filter.dataset.first;
    for (const filter of filters) if (filter.selectedIndex < 0) filter.value = "";
    column = names.indexOf(wanted.get("sort"));
    down = wanted.get("order") === "down";
  };
  const write = () => {
    const wanted = new URLSearchParams({ filter: search.value });
    for (const filter of filters) wanted.set(filter.name, filter.value);
    if (column >= 0) { wanted.set("sort", names[column]); wanted.set("order", down ? "down" : "up"); }
    history.replaceState(null, "", `#${wanted}`);
  };

  const matches = (row, words) =>
    filters.every((filter) => !filter.value || row[filter.dataset.column] === filter.value) &&
    words.every((word) => row.some((cell) => String(cell).toLowerCase().includes(word)));

  const compare = (a, b) => {
    const [x, y] = [a[column], b[column]];
    const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
    return down ? -order : order;
  };

  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = rows.filter((row) => matches(row, words));
    if (column >= 0) matching.sort(compare);
    body.replaceChildren(...matching.slice(0, shown).map((row) => {
      const line = document.createElement("tr");
      row.forEach((cell, index) => {
        const box = line.insertCell();
        box.textContent = typeof cell === "number" && index < 8 ? cell.toFixed(2) : cell;
        box.className = typeof cell === "number" ? "" : index === 5 || index > 9 ? "wrap" : "name";
      });
      return line;
    }));
    headings.forEach((heading, index) => {
      if (index === column) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    count.textContent = `${matching.length} of ${rows.length} rows`;
    more.hidden = matching.length <= shown;
  };

  const redraw = () => { shown = PAGE; draw(); write(); };
  search.addEventListener("input", redraw);
  filters.forEach((filter) => filter.addEventListener("change", redraw));
  more.addEventListener("click", () => { shown += 4 * PAGE; draw(); });
  headings.forEach((heading, index) => heading.querySelector("button").addEventListener("click", () => {
    down = column === index ? !down : false;
    column = index;
    draw();
    write();
  }));
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) { read(); shown = PAGE; draw(); }
  });
  read();
  draw();
  if (location.hash.includes("=")) document.getElementById("facts").scrollIntoView();
})();
