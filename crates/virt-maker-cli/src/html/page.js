'use strict';
// Everything that is shown came from templates and guests: it is put in as text, never as markup.
const data = JSON.parse(document.getElementById('data').textContent);

function make(name, attributes, ...children) {
  const svg = ['svg', 'path', 'circle', 'rect', 'text', 'line', 'g', 'title'].includes(name);
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === 'on') element.addEventListener('click', value);
    else if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function size(bytes) {
  if (bytes < 1024) return bytes + ' B';
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let unit = -1;
  do { bytes /= 1024; unit += 1; } while (bytes >= 1023.95 && unit + 1 < units.length);
  return bytes.toFixed(1) + ' ' + units[unit];
}

function duration(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + ' ms';
  if (seconds < 60) return seconds.toFixed(1) + ' s';
  if (seconds < 3600) return Math.floor(seconds / 60) + ' min ' + Math.round(seconds % 60) + ' s';
  return Math.floor(seconds / 3600) + ' h ' + Math.round(seconds % 3600 / 60) + ' min';
}

function age(seconds) {
  if (seconds < 120) return Math.max(0, Math.round(seconds)) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
  return Math.round(seconds / 86400) + ' d';
}

function list(pairs) {
  const rows = pairs.filter(([, value]) => value !== undefined && value !== null && value !== '');
  return make('dl', {}, ...rows.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
}

// A picture of a screen; where the page has none, its place. The page's policy lets `data:` alone be loaded.
function picture({ name, path, source }) {
  const shown = source ? make('img', { src: source, alt: name }) : make('p', { class: 'mono' }, path);
  return make('figure', {}, shown, make('figcaption', {}, name));
}
