// Rows in the order of the tree: what lies on a layer follows it; at a fork, all branches but the last are set in.
const nodes = new Map(data.layers.map((layer) => [layer.key, { ...layer, children: [] }]));
for (const [index, failure] of data.failures.entries()) {
  nodes.set('failure-' + index, { ...failure, key: 'failure-' + index, failed: true, bytes: 0, duration: 0, children: [] });
}
const roots = [];
for (const node of nodes.values()) {
  const parent = nodes.get(node.parent);
  if (parent) parent.children.push(node); else roots.push(node);
}

const HEIGHT = 26, STEP = 18, LEFT = 18;
const rows = [];
const stack = roots.map((root) => [root, 0, null]).reverse();
while (stack.length > 0) {
  const [node, depth, above] = stack.pop();
  const row = { node, depth, above, place: rows.length };
  rows.push(row);
  const inner = node.children.length > 1 ? depth + 1 : depth;
  for (const child of [...node.children].reverse()) stack.push([child, inner, row]);
}

const columns = Math.max(0, ...rows.map((row) => row.depth)) + 1;
const most = (field) => Math.max(1e-9, ...rows.filter((row) => row.node.role !== 'import').map((row) => row.node[field] ?? 0));
const [largest, slowest] = [most('bytes'), most('duration')];
const x = (row) => LEFT + row.depth * STEP, y = (row) => row.place * HEIGHT + HEIGHT / 2;

const graph = make('svg', { id: 'graph', width: LEFT * 2 + columns * STEP, height: rows.length * HEIGHT, 'aria-hidden': 'true' });
for (const row of rows) {
  if (!row.above) continue;
  const [x0, y0, x1, y1] = [x(row.above), y(row.above), x(row), y(row)];
  graph.append(make('path', { d: x0 === x1 ? `M${x0} ${y0}V${y1}` : `M${x0} ${y0}V${y1 - 8}Q${x0} ${y1} ${x0 + 8} ${y1}H${x1}` }));
}
for (const row of rows) {
  const kind = row.node.failed ? 'failed' : row.node.role;
  graph.append(make('circle', { cx: x(row), cy: y(row), r: 5.5, class: kind }));
}

const side = document.getElementById('side');
const area = document.getElementById('rows');
area.append(graph);
area.append(make('div', { class: 'row head' }, make('span', { class: 'what', style: `padding-left:${LEFT * 2 + columns * STEP}px` }, 'step'),
  ...[['bar size', 'size'], ['bar time', 'took'], ['hits count', 'hits'], ['age', 'made']].map(([kind, text]) => make('span', { class: kind }, text))));
for (const row of rows) {
  const node = row.node;
  const bar = (name, part, text) => make('span', { class: 'bar ' + name, style: '--part:' + Math.min(1, part) }, text);
  const badges = [
    ...(node.tags ?? []).map((name) => make('span', { class: 'badge tag', title: 'tag' }, name)),
    ...(node.exports ?? []).map((path) => make('span', { class: 'badge', title: path }, path.split('/').pop())),
    node.pinned ? make('span', { class: 'badge tag' }, 'pinned') : null,
    (node.images ?? []).length > 1 ? make('span', { class: 'badge shared', title: node.images.join('\n') }, node.images.length + ' images') : null,
    node.failed ? make('span', { class: 'badge failed' }, 'failed') : null,
  ];
  // A badge that is cut is whole while it is pointed at or has the focus, and all of it stands at the side.
  row.element = make('button', { class: 'row', style: `padding-left:${x(row) + 16}px`, on: () => choose(row) },
    make('span', { class: 'what' }, make('span', { class: 'kind' }, node.kind), ' ' + node.summary),
    ...badges,
    bar('size', node.bytes / largest, node.failed ? '' : size(node.bytes)),
    bar('time', node.duration / slowest, node.failed ? '' : duration(node.duration)),
    make('span', { class: 'hits', title: 'hits: images that were built on it' }, node.hits ? node.hits + '×' : ''),
    make('span', { class: 'age' }, age(data.now - node.created)));
  area.append(row.element);
}

let chosen = null;
function choose(row) {
  chosen?.element.classList.remove('chosen');
  chosen = row;
  row.element.classList.add('chosen');
  const node = row.node;
  const script = typeof node.arguments === 'string' ? node.arguments : JSON.stringify(node.arguments, null, 2);
  const part = (title, text) => text ? [make('h2', {}, title), make('pre', {}, text)] : [];
  side.replaceChildren(
    make('h2', {}, node.kind, ' ', make('span', { class: 'dim' }, node.summary)),
    list([
      ['key', node.failed ? null : make('code', {}, node.key)],
      ['size', node.failed ? null : size(node.bytes)],
      ['took', node.failed ? null : duration(node.duration)],
      [node.failed ? 'failed' : 'made', age(data.now - node.created) + ' ago'],
      ['engine', node.engine],
      ['hits', node.failed ? null : String(node.hits ?? 0)],
      ['image', node.flat ? 'right on the base' : null],
      ['last used', node.used ? age(data.now - node.used) + ' ago' : null],
      ['part of', (node.images ?? []).join(', ')],
      ['a step of', (node.within ?? []).join(' › ')],
      ['tags', (node.tags ?? []).join(', ')],
      ['pinned', node.pinned ? 'yes' : null],
      ['exported as', (node.exports ?? []).join(', ')],
      ['layers on it', String(node.children.length)],
    ]),
    ...(node.error ? [make('h2', { class: 'bad' }, 'Error'), make('pre', {}, node.error)] : []),
    ...part('Step', script),
    ...part('Taken from the host', (node.inputs ?? []).map((input) => `${input.name}  ${input.digest}`).join('\n')),
    ...part('Against its parent', node.diff),
    ...(node.screens?.length > 0 ? [make('h2', {}, 'Screens'), ...node.screens.map(picture)] : []),
    ...part('Log', node.log));
  side.scrollTop = 0;
}

document.getElementById('filter').addEventListener('input', (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of rows) {
    const text = [row.node.kind, row.node.summary, row.node.key, ...(row.node.exports ?? []), ...(row.node.tags ?? [])].join(' ').toLowerCase();
    row.element.classList.toggle('away', wanted !== '' && !text.includes(wanted));
  }
});

const bytes = data.layers.reduce((sum, layer) => sum + layer.bytes, 0);
document.getElementById('sum').textContent = `${data.layers.length} ${data.layers.length === 1 ? 'layer' : 'layers'}, ${size(bytes)}` +
  (data.failures.length > 0 ? `, ${data.failures.length} failed` : '');
if (rows.length > 0) choose(rows[0]);
document.documentElement.dataset.rows = rows.length;
