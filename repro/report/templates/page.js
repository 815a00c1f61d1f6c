// A link to a row, or printing, opens what is folded. The page is complete without it.
const openTarget = () => { const target = document.getElementById(location.hash.slice(1)); if (target instanceof HTMLDetailsElement) target.open = true }
addEventListener("hashchange", openTarget)
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true }))
openTarget()
