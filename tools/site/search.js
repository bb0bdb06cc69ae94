// The order of search results: exact matches before misspelled ones, titles before headings before
// text, and among equals lessons before other pages before the reference. `found` is what Fuse
// found, the best first.
window.rankResults = (query, found, index) => {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (text) => words.every((w) => text.toLowerCase().includes(w));
  const match = (e) => {
    if (!e.section && has(e.title)) return 0;
    if (has(e.section)) return 1;
    return has(e.text) ? 2 : 3;
  };
  const kind = (e) => (e.href.startsWith('lessons/') ? 0 : e.href.startsWith('api/') ? 2 : 1);
  const place = new Map(found.map((e, i) => [e, i]));
  const entries = index.filter((e) => place.has(e) || match(e) < 3);
  const keys = new Map(entries.map((e) => [e, [match(e), kind(e), place.get(e) ?? Infinity]]));
  const compare = (a, b) => {
    const i = a.findIndex((x, j) => x !== b[j]);
    return i < 0 ? 0 : a[i] - b[i];
  };
  return entries.sort((a, b) => compare(keys.get(a), keys.get(b)));
};
