"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("facts-data").textContent);
  const body = document.querySelector("#facts-table tbody");
  const heads = [...document.querySelectorAll("#facts-table thead th")];
  const search = document.getElementById("facts-search");
  const picks = [...document.querySelectorAll("select[data-column]")];
  const count = document.getElementById("facts-count");
  const more = document.getElementById("facts-more");
  const PAGE = 100;
  let shown = PAGE, column = -1, down = false;

  const asked = new URLSearchParams(location.hash.slice(1));
  search.value = asked.get("filter") || "";
  for (const pick of picks) pick.value = asked.get(pick.name) ?? pick.dataset.first;
  for (const pick of picks) if (pick.selectedIndex < 0) pick.value = "";
  if (asked.has("sort")) {
    column = heads.findIndex((head) => head.textContent.trim() === asked.get("sort"));
    down = asked.get("order") === "down";
  }

  const matches = (row, words) =>
    picks.every((pick) => !pick.value || row[pick.dataset.column] === pick.value) &&
    words.every((word) => row.some((cell) => String(cell).toLowerCase().includes(word)));

  const compare = (a, b) => {
    const [x, y] = [a[column], b[column]];
    const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
    return down ? -order : order;
  };

  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => matches(row, words));
    if (column >= 0) found.sort(compare);
    body.replaceChildren(...found.slice(0, shown).map((row) => {
      const line = document.createElement("tr");
      row.forEach((cell, index) => {
        const box = line.insertCell();
        box.textContent = typeof cell === "number" && index < 7 ? cell.toFixed(2) : cell;
        box.className = typeof cell === "number" ? "" : index > 8 ? "wrap" : "name";
      });
      return line;
    }));
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    count.textContent = `${found.length} of ${rows.length} rows`;
    more.hidden = found.length <= shown;
  };

  const again = () => { shown = PAGE; draw(); };
  search.addEventListener("input", again);
  picks.forEach((pick) => pick.addEventListener("change", again));
  more.addEventListener("click", () => { shown += 4 * PAGE; draw(); });
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    down = column === index ? !down : false;
    column = index;
    draw();
  }));
  draw();
})();
