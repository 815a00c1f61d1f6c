// Sorts and filters the table of results. The page is complete without it.
const table = document.getElementById("results")
const body = table.tBodies[0]
const search = document.getElementById("search")
const verdict = document.getElementById("verdict")
const shown = document.getElementById("shown")

function filterRows() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean)
  let count = 0
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase()
    row.hidden = !(words.every(word => text.includes(word)) && (!verdict.value || row.dataset.verdict === verdict.value))
    if (!row.hidden) count += 1
  }
  shown.textContent = `${count} of ${body.rows.length} rows`
}

function sortRows(column) {
  const header = table.tHead.rows[0].cells[column]
  const descending = header.ariaSort === "ascending"
  for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.ariaSort = "none"
  header.ariaSort = descending ? "descending" : "ascending"
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim()
  // Rows without a value stay at the end, whichever way the others are sorted.
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)]
    if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1)
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y
    return descending ? -order : order
  }
  body.append(...[...body.rows].sort(compare))
}

for (const header of table.tHead.rows[0].cells) {
  header.querySelector("button")?.addEventListener("click", () => sortRows(header.cellIndex))
}
search.addEventListener("input", filterRows)
verdict.addEventListener("change", filterRows)
document.querySelector(".tools").hidden = false
