// On every page: copy buttons, ages of recorded times, search in tables.
"use strict";

const said = document.getElementById("said");

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page from a file may lack the clipboard: the old way
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
  return true;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const done = await copied(button.dataset.copy);
  button.focus();
  button.textContent = done ? "Copied" : "Failed";
  said.textContent = done ? "Copied" : "Copying failed";
  setTimeout(() => {
    button.textContent = "Copy";
    said.textContent = "";
  }, 2000);
});

function age(days) {
  if (days < 1) return "today";
  if (days < 2) return "yesterday";
  return days < 60 ? `${Math.floor(days)} days ago` : `${Math.floor(days / 30.44)} months ago`;
}

for (const time of document.querySelectorAll("time[data-age]")) {
  const days = (Date.now() - Date.parse(time.dateTime)) / 86400000;
  if (Number.isNaN(days)) continue;
  time.title = time.textContent;
  time.textContent = `${time.dateTime.slice(0, 10)}, ${age(Math.max(0, days))}`;
}

for (const input of document.querySelectorAll("input[data-search]")) {
  const rows = [...document.getElementById(input.dataset.search).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.querySelector(`[data-count="${input.dataset.search}"]`);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row, at) => {
      row.hidden = !words.every((word) => texts[at].includes(word));
      found += row.hidden ? 0 : 1;
    });
    count.textContent = words.length ? `${found} of ${rows.length}` : "";
  });
}
