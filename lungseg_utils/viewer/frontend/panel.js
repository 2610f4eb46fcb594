// The panel beside the picture: tools, threshold, scores, and the list of what is marked.

const TOOLS = [
  ["look", "Look", "move the crosshair (L)"],
  ["add", "Click to add", "a click marks the tumour under it (A)"],
  ["paint", "Brush", "paint with the button held down (B)"],
  ["erase", "Eraser", "erase with the button held down (E)"],
];

// Return an element: its class, its attributes, its children or text.
function element(tag, name, attributes = {}, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A real minus sign where there is a number; a hyphen in a file's name stays.
function signed(text) {
  return text.replace(/(^|\s)-(?=\d)/g, "$1−");
}

function buttons(names, chosen, choose) {
  const group = element("div", "lv-buttons", { role: "group" });
  for (const [value, text, title] of names) {
    group.append(element("button", "", { type: "button", "data-value": value, title: title || text,
      onclick: () => choose(value) }, text));
  }
  group.show = (value) => {
    for (const button of group.children) {
      button.setAttribute("aria-pressed", String(button.dataset.value === value));
    }
  };
  group.show(chosen);
  return group;
}

function slider(name, text, low, high, step, value, changed) {
  const output = element("output", "", {}, text(value));
  const input = element("input", "", { type: "range", min: low, max: high, step, "aria-label": name });
  input.value = value;
  input.addEventListener("input", () => {
    output.textContent = text(Number(input.value));
    changed(Number(input.value));
  });
  const made = element("label", "lv-slider", {}, element("span", "", {}, name), input, output);
  made.show = (number) => {
    input.value = number;
    output.textContent = text(number);
  };
  made.input = input;
  return made;
}

function legend(facts) {
  const entries = [];
  if (facts.truth) entries.push(["truth", facts.colours.truth, "solid"]);
  if (facts.prediction) {
    entries.push([facts.editable ? "kept" : "prediction", facts.colours.prediction, "dashed"]);
  }
  if (facts.editable) entries.push(["dropped", "#9a9a9a", "dotted"]);
  return element("div", "lv-legend", {}, ...entries.map(([name, colour, line]) =>
    element("span", "", {}, element("i", "", { style: `border-top: 3px ${line} ${colour}` }), name)));
}

// What the scores say, in the order in which one asks.
function scoreText(scores) {
  if (scores.dice === undefined) return [[scores.volume_ml.toFixed(1), "mL kept"], [String(scores.tumours), scores.tumours === 1 ? "tumour kept" : "tumours kept"]];
  const falseMarks = scores.false_positives;
  return [
    [scores.dice.toFixed(2), "Dice"],
    [`${scores.lesions_found} of ${scores.lesions_true}`, "lesions found"],
    [String(falseMarks), falseMarks === 1 ? "false mark" : "false marks"],
    [scores.volume_ml.toFixed(1), "mL kept"],
  ];
}

function rowOf(row, actions) {
  const isMissed = row.kind === "missed";
  const name = isMissed ? "missed" : `${row.kind === "truth" ? "truth " : ""}${row.number}`;
  const size = `${row.volume.toFixed(row.volume < 10 ? 2 : 1)} mL · ${row.longest.toFixed(0)} mm`;
  const place = `slice ${row.centre[0] + 1} · ${row.place.map((mm) => mm.toFixed(0)).join(", ")} mm`;
  const made = element("div", `lv-row lv-${row.kind}`, { title: "show it", onclick: () => actions.show(row) },
    element("b", "", {}, name), element("span", "lv-size", {}, size));
  if (row.kept !== undefined) {
    const sure = row.confidence === null ? "by hand" : row.confidence.toFixed(2);
    const title = row.certain ? "its highest probability" : "less certain than the weights ask for";
    made.append(element("span", "lv-sure", { title }, sure));
    const box = element("input", "", { type: "checkbox", title: "keep it", "aria-label": `keep ${name}` });
    box.checked = row.kept;
    box.addEventListener("click", (event) => event.stopPropagation());
    box.addEventListener("change", () => actions.decide(row, box.checked));
    made.append(box);
    made.classList.toggle("lv-is-dropped", !row.kept);
  }
  made.append(element("small", "", {}, signed(place)));
  return made;
}
