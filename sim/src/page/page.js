'use strict';
// Stretches time, filters, and leads from lists into the picture. The page can be read without it.
(() => {
  const byId = id => document.getElementById(id);
  const svg = byId('pic'), box = byId('box'), zoom = byId('zoom'), only = byId('only'), ticks = byId('ticks');
  const TOP = 20, BOTTOM = 40, scale = +svg.dataset.k, from = +svg.dataset.from, to = +svg.dataset.to;
  const height = +svg.getAttribute('height'), width = +svg.getAttribute('width');
  let factor = 1;
  const moving = [];
  for (const it of svg.querySelectorAll('g > line, g > use, g > text, g > a > line, svg > line')) {
    if (ticks.contains(it)) continue;
    for (const name of ['y', 'y1', 'y2']) if (it.hasAttribute(name)) moving.push([it, name, +it.getAttribute(name)]);
  }
  const y = t => TOP + (t - from) * scale * factor;
  const time = px => from + (px - TOP) / scale / factor;
  function drawTicks() {
    const first = Math.max(from, time(box.scrollTop)), last = Math.min(to, time(box.scrollTop + box.clientHeight));
    const steps = [.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 60, 120, 300, 600];
    const step = steps.find(it => it * scale * factor >= 28) || 600;
    const parts = [];
    for (let n = Math.ceil(first / step); n * step <= last; n++) {
      const at = y(n * step).toFixed(2), text = (n * step).toFixed(step < 1 ? 2 : 0);
      parts.push(`<line x1="64" y1="${at}" x2="${width}" y2="${at}"/><text x="4" y="${at}" dy="3">${text}</text>`);
    }
    ticks.innerHTML = parts.join('');
  }
  function stretch(by) {
    const middle = time(box.scrollTop + box.clientHeight / 2);
    factor = by;
    for (const [it, name, base] of moving) it.setAttribute(name, (TOP + (base - TOP) * factor).toFixed(2));
    svg.setAttribute('height', (height - TOP - BOTTOM) * factor + TOP + BOTTOM);
    box.scrollTop = y(middle) - box.clientHeight / 2;
    drawTicks();
  }
  function go(t) {
    box.scrollTop = y(t) - box.clientHeight / 2;
    drawTicks();
  }
  function filter() {
    const words = only.value.toLowerCase().split(/\s+/).filter(it => it);
    for (const it of document.querySelectorAll('[data-k]')) {
      if (it === svg) continue;
      const key = it.dataset.k.toLowerCase();
      it.classList.toggle('off', !words.every(word => key.includes(word)));
    }
  }
  zoom.addEventListener('input', () => stretch(2 ** zoom.value));
  only.addEventListener('input', filter);
  byId('jump').addEventListener('change', event => go(+event.target.value));
  byId('controls').addEventListener('submit', event => event.preventDefault());
  for (const it of document.querySelectorAll('#controls [type=checkbox]')) {
    it.addEventListener('change', () => svg.classList.toggle('no-' + it.value, !it.checked));
  }
  document.addEventListener('click', event => {
    const link = event.target.closest('a.go');
    if (!link) return;
    event.preventDefault();
    document.querySelectorAll('.here').forEach(it => it.classList.remove('here'));
    const target = byId(link.getAttribute('href').slice(1));
    if (target && target !== box) target.classList.add('here');
    go(+link.dataset.t);
    box.scrollIntoView({ block: 'nearest' });
  });
  svg.addEventListener('mouseover', event => {
    const title = event.target.closest('g')?.querySelector('title');
    if (title) byId('info').textContent = title.textContent;
  });
  let due = false;
  box.addEventListener('scroll', () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; drawTicks(); });
  });
  drawTicks();
  if (document.querySelector('ol.led')) go(to);
})();
