// Looks verdicts up: what is asked of a machine and where the answers lead is data, recorded from `buildctl check`.
"use strict";

const { table, choices } = window.buildctl;
const lists = ["machine", "gpu", "driver"].map((id) => document.getElementById(id));
const kinds = {
  "runs with GPU": ["runs-gpu", "passed"],
  "runs on CPU": ["runs-cpu", "partly"],
  "runs slowly under emulation": ["emulated", "partly"],
  "does not run": ["not", "untested"],
};

function valueAt(host, path) {
  return path.reduce((found, names) => {
    if (found === null || found === undefined) return undefined;
    const name = names.find((one) => one in found);
    return name === undefined ? undefined : found[name];
  }, host);
}

function atLeast(version, bound) {
  const [x, y] = [version, bound].map((text) => text.split(".").map(Number));
  for (let at = 0; at < Math.max(x.length, y.length); at++) {
    const difference = (x[at] || 0) - (y[at] || 0);
    if (difference) return difference > 0;
  }
  return true;
}

// The class of a fact, by the rule that came with it.
const rules = {
  flag: (value) => (value ? "1" : ""),
  word: (value, fact) => (!value ? "" : fact.words.includes(value) ? value : "*"),
  prefix: (value, fact) => (!value ? "" : fact.words.find((word) => value.startsWith(word)) || "*"),
  set: (value, fact) => fact.words.filter((word) => (value || []).includes(word)).join(" "),
  gpus: (value) => [...new Set((value || []).map(gpuClass))].sort((x, y) => x - y).join(","),
  version: (value, fact) => {
    const text = value && fact.clean ? (value.trim().match(`^(?:${fact.clean})$`) || [])[1] : value;
    if (!text || (fact.suffix && !text.endsWith(fact.suffix))) return "";
    const digits = (text.match(/^\d+(\.\d+)*/) || ["0"])[0];
    return String(fact.bounds.filter((bound) => atLeast(digits, bound)).length);
  },
};

function gpuClass(gpu) {
  const found = table.capabilities[gpu.capability || ""];
  return found ? found[0] : "?";
}

function gpuNames(host, wanted) {
  const names = (host.gpus || [])
    .filter((gpu) => wanted(gpuClass(gpu)))
    .map((gpu) => `${gpu.name} (${table.capabilities[gpu.capability || ""][1]})`);
  return [...new Set(names)].join(", ");
}

function filled(text, name, host) {
  const arch = (host.engine && host.engine.arch) || host.arch;
  const covered = (table.covered[name] || {})[arch] || [];
  return text.replace(/⟦([^⟧]+)⟧/g, (_, word) => {
    if (word === "covered") return gpuNames(host, (one) => covered.includes(one));
    if (word === "uncovered") return gpuNames(host, (one) => !covered.includes(one));
    return valueAt(host, table.facts[word].path);
  });
}

function verdict(name, host) {
  let node = table.nodes[table.roots[name]];
  while (node && node.length === 2) {
    const fact = table.facts[node[0]];
    node = table.nodes[node[1][rules[fact.by](valueAt(host, fact.path), fact)]];
  }
  if (!node) return { name, verdict: null, reason: "this page cannot tell for this machine", nextStep: `buildctl check ${name}` };
  return { name, verdict: node[0], reason: filled(node[1], name, host), nextStep: filled(node[2], name, host) };
}

const verdicts = (host) => Object.keys(table.roots).map((name) => verdict(name, host));

// Why a text is not a file of facts; empty if it is one.
function problem(host) {
  if (host === null || typeof host !== "object" || Array.isArray(host) || !("schema" in host))
    return "This is not a file of facts. `buildctl check --save facts.json` writes one.";
  if (host.schema !== table.schema) return `This file has schema ${host.schema}, not ${table.schema}.`;
  if (!table.systems.includes(host.system)) return `${host.system} is not a known system.`;
  if (typeof host.arch !== "string" || typeof host.kernel !== "string") return "This file of facts lacks arch or kernel.";
  if (host.gpus && !(Array.isArray(host.gpus) && host.gpus.every((gpu) => gpu && typeof gpu.name === "string")))
    return "This file of facts has a malformed list of GPUs.";
  return "";
}

function made(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function show(host, about) {
  document.getElementById("about").textContent = about;
  const order = Object.keys(kinds);
  const rank = (found) => (found.verdict ? order.indexOf(found.verdict) : order.length);
  const sorted = verdicts(host).sort((x, y) => rank(x) - rank(y));
  const items = sorted.map((found) => {
    const [border, chip] = kinds[found.verdict] || ["untold", "unbuilt"];
    const item = made("li", "", border);
    const title = made("h3", found.name);
    title.append(made("span", found.verdict || "unknown", `chip ${chip}`));
    const step = made("p", "Next: ", "step");
    step.append(made("code", found.nextStep));
    item.append(title, made("p", found.reason), step);
    return item;
  });
  document.getElementById("verdicts").replaceChildren(...items);
}

function chosen() {
  const [machine, gpu, driver] = lists.map((list) => choices[list.id][Number(list.value)].facts);
  const mac = machine.system === "macos";
  lists[1].disabled = mac;
  lists[2].disabled = mac || !gpu.gpus.length;
  const host = { ...machine };
  if (!lists[1].disabled) Object.assign(host, gpu);
  if (!lists[2].disabled) Object.assign(host, driver);
  return host;
}

function showChosen() {
  document.getElementById("problem").textContent = "";
  show(chosen(), "for the machine described above");
}

async function take(file) {
  const place = document.getElementById("problem");
  let host = null;
  try {
    host = JSON.parse(await file.text());
  } catch {
    host = null;
  }
  place.textContent = problem(host);
  if (!place.textContent) show(host, `for ${file.name}`);
}

for (const list of lists) list.addEventListener("change", showChosen);
const drop = document.getElementById("drop");
const input = document.getElementById("file");
input.addEventListener("change", () => input.files.length && take(input.files[0]));
for (const name of ["dragenter", "dragover"])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
showChosen();
