// From events to bars: each has a lane (its worker, or `sealing`), a begin, an end, a class and a text.
const first = data.events[0]?.time ?? 0;
const layers = new Map(), bars = [], open = new Map(), images = data.events.find((event) => event.type === 'build_started')?.images ?? [];
let end = 0;
const begin = (id, bar) => open.set(id, bar);
function close(id, at, changes) {
  const bar = open.get(id);
  if (!bar) return;
  open.delete(id);
  bars.push(Object.assign(bar, { end: at }, changes));
}
for (const event of data.events) {
  const at = event.time - first;
  end = Math.max(end, at);
  const layer = layers.get(event.key);
  switch (event.type) {
    case 'layer_cached': layers.set(event.key, { ...event, state: 'cached' }); break;
    case 'session_started':
      begin('session ' + event.session, { lane: event.worker, class: 'session', begin: at, text: `session ${event.session}, ${event.engine}` });
      break;
    case 'session_ended': close('session ' + event.session, at); break;
    case 'layer_started': {
      const kind = event.role === 'import' ? 'import' : 'step';
      layers.set(event.key, { ...event, state: 'under way', begin: at });
      begin('layer ' + event.key, { lane: event.worker, class: kind, begin: at, text: `${event.kind}: ${event.summary}` });
      break;
    }
    case 'step_finished':
      close('layer ' + event.key, at);
      if (layer) Object.assign(layer, { state: 'built', took: event.elapsed });
      begin('seal ' + event.key, { lane: 'sealing', class: 'seal', begin: at, text: `seal ${event.key.slice(0, 12)}` });
      break;
    case 'layer_sealed':
      close('seal ' + event.key, at);
      if (layer) layer.bytes = event.bytes;
      break;
    case 'step_failed': case 'import_failed':
      close('layer ' + event.key, at, { class: 'failed' });
      if (layer) Object.assign(layer, { state: 'failed', took: at - layer.begin });
      break;
    case 'test_started':
      begin('test ' + event.key, { lane: event.worker, class: 'step', begin: at, text: `test: ${event.name}` });
      break;
    case 'test_finished': close('test ' + event.key, at, event.outcome === 'failed' ? { class: 'failed' } : {}); break;
    case 'export_started':
      begin('export ' + event.path, { lane: event.worker, class: 'export', begin: at, text: `export ${event.kind}: ${event.path}` });
      break;
    case 'export_finished': close('export ' + event.path, at); break;
    case 'export_failed': close('export ' + event.path, at, { class: 'failed' }); break;
  }
}
// What was under way when the build ended.
for (const id of [...open.keys()]) close(id, end, id.startsWith('seal') || id.startsWith('session') ? {} : { class: 'failed' });

const main = document.querySelector('main');
const add = (...elements) => main.append(...elements);
const last = data.events.find((event) => event.type === 'build_finished' || event.type === 'build_failed');
const good = last?.type === 'build_finished';
document.getElementById('sum').append(
  make('span', { class: good ? 'good' : 'bad' }, good ? 'finished' : 'failed'),
  ` after ${duration(end)}` + (good ? `: ${last.built} built, ${last.cached} cached` : last ? `: ${last.message}` : ''));

const name = (image) => image.template.split('/').pop() + Object.entries(image.matrix ?? {}).map(([key, value]) => ` ${key}=${value}`).join('');
if (last?.images?.length > 0) {
  add(make('h2', {}, 'Images'), make('table', {}, ...last.images.map((image) => make('tr', {},
    make('td', {}, name(image)),
    make('td', { class: image.outcome === 'failed' ? 'bad' : image.outcome === 'stopped' ? 'dim' : 'good' }, image.outcome),
    make('td', {}, image.error ?? '')))));
}

const tests = data.events.filter((event) => event.type === 'test_finished');
if (tests.length > 0) {
  add(make('h2', {}, 'Tests'), make('table', {}, ...tests.map((test) => make('tr', {},
    make('td', {}, test.name),
    make('td', {}, images.length > 1 && images[test.image] ? name(images[test.image]) : ''),
    make('td', { class: test.outcome === 'failed' ? 'bad' : test.outcome === 'cached' ? 'dim' : 'good' }, test.outcome),
    make('td', { class: 'number' }, duration(test.seconds))))));
}

const artifacts = data.events.filter((event) => event.type === 'export_finished' || event.type === 'export_failed');
if (artifacts.length > 0) {
  add(make('h2', {}, 'Artifacts'), make('table', {},
    make('tr', {}, ...['artifact', 'state', 'size', 'SHA-256'].map((text) => make('th', {}, text))),
    ...artifacts.map((event) => make('tr', {},
      make('td', {}, event.path),
      event.type === 'export_failed' ? make('td', { class: 'bad' }, 'failed: ' + event.message)
        : make('td', { class: event.current ? 'dim' : 'good' }, event.current ? 'unchanged' : 'written'),
      make('td', { class: 'number' }, event.bytes === undefined ? '' : size(event.bytes)),
      make('td', { class: 'mono digest' }, event.digest ?? '')))));
}

add(make('h2', {}, 'Timeline'));
add(make('p', {}, ...[['session', 'session open'], ['import', 'import'], ['step', 'step'], ['seal', 'sealing in the background'], ['export', 'export'], ['failed', 'failed or stopped']]
  .map(([kind, text]) => make('span', { class: 'key' }, make('svg', { width: 12, height: 12 }, make('rect', { class: kind, width: 12, height: 12, rx: 3 })), text))));
const WIDTH = 1000, HEIGHT = 34;
const scale = (at) => at / Math.max(end, 1e-9) * WIDTH;
const lanes = [...new Set(bars.map((bar) => bar.lane))].sort((one, two) => (one === 'sealing') - (two === 'sealing') || one - two);
for (const lane of lanes) {
  const drawing = make('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: '100%', preserveAspectRatio: 'none', height: HEIGHT, role: 'img' });
  const own = bars.filter((bar) => bar.lane === lane).sort((one, two) => (two.class === 'session') - (one.class === 'session'));
  for (const bar of own) {
    const session = bar.class === 'session';
    drawing.append(make('rect', { class: bar.class, x: scale(bar.begin), y: session ? 2 : 8, height: session ? 30 : 18, rx: 2,
      width: Math.max(1.5, scale(bar.end) - scale(bar.begin)) }, make('title', {}, `${bar.text}\n${duration(bar.end - bar.begin)}, from ${duration(bar.begin)}`)));
  }
  // What is wide enough says what it is; all others do so when they are pointed at.
  const labels = own.filter((bar) => bar.class !== 'session' && bar.end - bar.begin > end * 0.06).map((bar) =>
    make('span', { class: 'label', title: bar.text, style: `left:${scale(bar.begin) / 10}%;width:${(scale(bar.end) - scale(bar.begin)) / 10}%` }, bar.text));
  add(make('div', { class: 'lane' }, make('span', { class: 'name' }, lane === 'sealing' ? 'sealing' : 'worker ' + lane),
    make('div', { class: 'bars' }, drawing, ...labels)));
}
const marks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((part) => make('span', { style: `left:${part * 100}%` }, duration(end * part)));
add(make('div', { class: 'lane' }, make('span', { class: 'name' }), make('div', { class: 'axis' }, ...marks)));

// A step or a test, by its key.
const titles = new Map([...layers.values()].map((layer) => [layer.key, `${layer.kind}: ${layer.summary}`]));
for (const test of tests) titles.set(test.key, `test: ${test.name}`);
const title = (key) => titles.get(key) ?? key.slice(0, 12);
const boots = data.events.filter((event) => event.type === 'machine_booted');
if (boots.length > 0) {
  const longest = Math.max(...boots.map((boot) => boot.elapsed));
  // As wide as they are long, each phase a little lighter than the one before.
  const parts = (boot) => {
    let from = 0;
    return make('svg', { viewBox: '0 0 300 14', width: 300, height: 14, role: 'img' }, ...boot.phases.map((phase, place) => {
      const [x, width] = [from, phase.seconds / longest * 300];
      from += width;
      return make('rect', { class: 'phase', x, width: Math.max(width, 0.5), y: 1, height: 12, 'fill-opacity': 1 - place * 0.17 },
        make('title', {}, `${phase.name}: ${duration(phase.seconds)}`));
    }));
  };
  add(make('h2', {}, 'Boots'), make('table', {}, ...boots.map((boot) => make('tr', {},
    make('td', {}, title(boot.key) + (boot.restart ? ', again' : '')),
    make('td', { class: 'number' }, duration(boot.elapsed)),
    make('td', {}, parts(boot)),
    make('td', {}, boot.phases.map((phase) => `${phase.name} ${duration(phase.seconds)}`).join(', '))))));
}
const screens = data.events.filter((event) => event.type === 'screenshot');
if (screens.length > 0) {
  add(make('h2', {}, 'Screenshots'), make('div', { class: 'screens' },
    ...screens.map((event) => make('div', {}, make('span', { class: 'dim' }, title(event.key)), picture(event.picture)))));
}
if (last?.spent?.length > 0) {
  add(make('h2', {}, 'Where the time went'), list([...last.spent].sort((one, two) => two[1] - one[1]).map(([what, seconds]) => [what, duration(seconds)])));
}
add(make('h2', {}, 'Layers'), make('table', {},
  make('tr', {}, ...['layer', 'step', 'image', 'state', 'took', 'size'].map((text) => make('th', {}, text))),
  ...[...layers.values()].map((layer) => make('tr', {},
    make('td', { class: 'mono' }, layer.key.slice(0, 12)),
    make('td', {}, `${layer.kind}: ${layer.summary}`),
    make('td', {}, images.length > 1 && images[layer.image] ? name(images[layer.image]) : ''),
    make('td', { class: layer.state === 'failed' ? 'bad' : layer.state === 'built' ? 'good' : 'dim' }, layer.state),
    make('td', { class: 'number' }, layer.took === undefined ? '' : duration(layer.took)),
    make('td', { class: 'number' }, layer.bytes === undefined ? '' : size(layer.bytes))))));
const failures = data.events.filter((event) => event.type === 'step_failed');
for (const { failure, picture: screen } of failures) {
  add(make('h2', { class: 'bad' }, failure.step), make('p', {}, failure.exit ?? ''), make('pre', {}, failure.last_lines.join('\n')));
  if (screen) add(picture(screen));
}
for (const event of data.events.filter((event) => event.type === 'import_failed' && event.picture)) {
  add(make('h2', { class: 'bad' }, title(event.key)), make('pre', {}, event.message), picture(event.picture));
}
const warnings = data.events.filter((event) => event.type === 'warning');
if (warnings.length > 0) add(make('h2', {}, 'Warnings'), make('ul', {}, ...warnings.map((event) => make('li', {}, event.message))));
document.documentElement.dataset.rows = layers.size;
