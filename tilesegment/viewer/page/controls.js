// Small pieces that the controls are made of. Text is set as text, never as markup.

let count = 0;

export function element(name, given = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// An input and its label, in one row.
export function field(label, given) {
  const input = element("input", { id: `field-${(count += 1)}`, ...given });
  const named = element("label", { htmlFor: input.id, text: label });
  return { input, row: element("div", { className: "row" }, ...(given.type === "checkbox" ? [input, named] : [named, input])) };
}

export function later(wait, action) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}
