// Making and keeping elements. All text goes through textContent: names come from outside.

const svgNames = 'http://www.w3.org/2000/svg';

// el makes an element. Attributes that are null, undefined or false are left out; children are
// nodes or texts.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// svg is el for drawings.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(svgNames, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// say sets a text where it has changed, so that nobody who reads or selects it is disturbed.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// show shows or hides an element.
export function show(node, on) {
  if (node.hidden === on) node.hidden = !on;
}

// keep makes the children of a parent those of a list: one for each key, made once and kept,
// so that focus stays where it is. make(item) returns the node, update(node, item) is called each time.
export function keep(parent, list, key, make, update) {
  const keys = new Set(list.map(key));
  const old = new Map();
  for (const node of [...parent.children]) {
    if (keys.has(node.dataset.key) && !old.has(node.dataset.key)) old.set(node.dataset.key, node);
    else node.remove();
  }
  let next = parent.firstElementChild;
  for (const item of list) {
    const k = key(item);
    let node = old.get(k);
    old.delete(k);
    if (!node) {
      node = make(item);
      node.dataset.key = k;
    }
    if (node === next) next = node.nextElementSibling;
    else parent.insertBefore(node, next);
    update(node, item);
  }
}

// rows keeps the rows of a table. Each column is {value(item), class?} for a text, or {node(item)} for
// what is made once a row; the first column is the row's heading.
export function rows(table, list, key, columns) {
  const heads = [...table.tHead.rows[0].cells];
  keep(table.tBodies[0], list, key, (item) => {
    const row = el('tr');
    columns.forEach((column, i) => {
      const cell = el(i === 0 ? 'th' : 'td', { scope: i === 0 && 'row', 'data-label': heads[i].textContent, class: heads[i].className || null });
      if (column.node) cell.append(...[column.node(item)].flat());
      row.append(cell);
    });
    return row;
  }, (row, item) => {
    columns.forEach((column, i) => {
      const cell = row.cells[i];
      if (column.value) say(cell, column.value(item));
      if (column.class) cell.className = column.class(item);
    });
  });
  show(table, list.length > 0);
}
