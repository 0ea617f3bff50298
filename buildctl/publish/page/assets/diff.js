// Compares two images: every list is a table of names and values, and a difference is a name whose values differ.
"use strict";

const images = window.buildctl;
const [from, to] = ["a", "b"].map((id) => document.getElementById(id));
const units = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];

function size(count) {
  for (const [unit, step] of units) {
    const value = count / step;
    if (value >= 1) return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
  }
  return `${count} B`;
}

function changes(before, after, sorted) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  if (sorted) names.sort((x, y) => (x < y ? -1 : 1));
  return names
    .map((name) => [name, before[name] || "", after[name] || ""])
    .filter(([, x, y]) => x !== y);
}

function compared(a, b) {
  const [mine, theirs] = [a, b].map((side) => new Set(side.layers.map((layer) => layer[1])));
  const only = (side, other) =>
    Object.fromEntries(side.layers.filter((layer) => !other.has(layer[1])).map((layer) => [layer[0], layer[3]]));
  return {
    same: a.digest === b.digest,
    shared: b.layers.filter((layer) => mine.has(layer[1])).reduce((sum, layer) => sum + layer[2], 0),
    packages: a.packages && b.packages ? changes(a.packages, b.packages, true) : null,
    configuration: changes(a.configuration, b.configuration, true),
    layers: changes(only(a, theirs), only(b, mine), false),
  };
}

function made(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function table(title, found) {
  const section = document.createElement("section");
  section.append(made("h2", title));
  if (!found || !found.length) {
    section.append(made("p", found ? "The same." : "Unknown: no bill of materials is attached.", "unknown"));
    return section;
  }
  const element = made("table", "", "changes");
  const head = element.createTHead().insertRow();
  for (const word of ["Change", "What", "From", "To"]) head.append(Object.assign(made("th", word), { scope: "col" }));
  const body = element.createTBody();
  for (const [name, before, after] of found) {
    const kind = !before ? "added" : !after ? "removed" : "changed";
    const row = body.insertRow();
    row.append(made("td", kind, `change ${kind}`), Object.assign(made("th", name, "evidence"), { scope: "row" }));
    row.append(made("td", before, "evidence"), made("td", after, "evidence"));
  }
  section.append(element);
  return section;
}

function show() {
  const [a, b] = [images[from.value], images[to.value]];
  const found = compared(a, b);
  const summary = document.getElementById("summary");
  const place = document.getElementById("changes");
  summary.textContent = found.same
    ? "Identical images, byte for byte."
    : `${size(a.size)} and ${size(b.size)}: ${size(found.shared)} in shared layers, ${size(b.size - found.shared)} to pull if you have the first.`;
  place.replaceChildren();
  if (found.same) return;
  place.append(table("Packages", found.packages));
  place.append(table("Configuration", found.configuration), table("Layers", found.layers));
}

if (from && to) {
  from.addEventListener("change", show);
  to.addEventListener("change", show);
  document.getElementById("swap").addEventListener("click", () => {
    [from.value, to.value] = [to.value, from.value];
    show();
  });
  show();
}
