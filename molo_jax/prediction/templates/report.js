"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  /* Elements: text is always set as text, never as HTML. */
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const make = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const bdi = (text, cls = "") => make("bdi", { class: cls }, text);
  const number = (x) => (Math.abs(x) >= 0.1 || x === 0 ? x.toFixed(2) : `${+x.toPrecision(2)}`).replace("-", "−");
  const signed = (x) => (x < 0 ? "" : "+") + number(x);
  const file = (name) => name.slice(Math.max(0, ...data.folders.filter((f) => name.startsWith(f)).map((f) => f.length)));
  const key = (name) => (name === "match" ? "distance" : name);

  /* Entries of a stream: frames, or where there is one less, changes from a frame to the next. */
  const entry = (i, count, frames) => (count === frames ? `${i + 1}` : `${i + 1}→${i + 2}`);
  const center = (i, count, frames) => (i + 0.5 + (frames - count) / 2) / frames;
  const kind = (count, frames) => (count === frames ? "frame" : "change of frames");

  function load(root) {
    for (const image of root.querySelectorAll("img[data-image]:not([src])"))
      image.src = "data:image/jpeg;base64," + data.images[image.dataset.image];
  }

  function row(strip, above) {
    return Array.from({ length: strip.count }, (_, i) => {
      const when = strip.seconds ? `${strip.seconds[i].toFixed(1)} s` : `no. ${strip.numbers[i] + 1}`;
      const alt = `${file(strip.name)}, frame ${i + 1} of ${strip.count}, ${when}`;
      const picture = strip.images.length
        ? make("img", { "data-image": strip.images[i], alt })
        : make("div", { class: "blank", role: "img", "aria-label": alt }, `${i + 1}`);
      const caption = make("div", {}, make("b", {}, `${i + 1}`), ` ${when}`);
      return make("div", { class: "frame" }, ...(above ? [caption, picture] : [picture, caption]));
    });
  }

  /* The least and the largest of all distances, so that both classes have one scale. */
  function range(values) {
    const low = Math.min(...values), high = Math.max(...values);
    return { low, high, nearness: (x) => (high > low ? (high - x) / (high - low) : 1) };
  }

  function lines(match, stream, frames, scale) {
    const { pairs, frames: table } = match.streams[stream];
    const [rows, columns] = [table.length, table[0].length];
    const drawn = pairs.map(([i, j, distance, count]) => {
      const near = scale.nearness(distance);
      const text = `${entry(i, rows, frames)} and ${entry(j, columns, frames)}: ${number(distance)}`
        + (count === 2 ? ", from both sides" : "");
      return draw("line", {
        x1: 100 * center(i, rows, frames), x2: 100 * center(j, columns, frames), y1: 2, y2: 98,
        class: count === 2 ? "both" : "one", "data-pair": `${i},${j}`,
        "stroke-width": (1.2 + 4.8 * near).toFixed(1), "stroke-opacity": (0.4 + 0.6 * near).toFixed(2),
      }, draw("title", {}, text));
    });
    const nearest = pairs.reduce((a, b) => (b[2] < a[2] ? b : a));
    const label = `${pairs.length} matched pairs; nearest: ${kind(rows, frames)} `
      + `${entry(nearest[0], rows, frames)} of this clip and ${entry(nearest[1], columns, frames)} of `
      + `${match.name}, distance ${number(nearest[2])}. All pairs are in the table below.`;
    return draw("svg", {
      class: "lines", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label,
    }, ...drawn);
  }

  function pairing(clip, match, role, stream, scale) {
    const frames = clip.query.count;
    const joined = scale ? lines(match, stream, frames, scale) : make("div", { class: "gap" });
    const strip = make("div", { class: "strip", style: `--frames:${frames}` },
      ...row(clip.query, true), joined, ...row(match.strip, false));
    return make("figure", { class: "pairing" },
      make("figcaption", {}, make("b", {}, role + " "), bdi(match.name, "label"),
        ` · distance ${number(match.distance)}`),
      make("p", { class: "row" }, "this clip"),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Frames of this clip and of ${match.name}` }, strip),
      make("p", { class: "row" }, bdi(match.name), ": ", bdi(file(match.strip.name))),
      scale ? table(match, stream, frames) : null);
  }

  function table(match, stream, frames) {
    const { pairs, frames: all } = match.streams[stream];
    const head = ["this clip", match.name, "distance", "chosen from"].map((text) => make("th", { scope: "col" }, text));
    const body = pairs.map(([i, j, distance, count]) => make("tr", {},
      ...[entry(i, all.length, frames), entry(j, all[0].length, frames), number(distance), count === 2 ? "both sides" : "one side"]
        .map((text) => make("td", {}, text))));
    return make("details", { class: "pairs" }, make("summary", {}, `Matched pairs as a table (${pairs.length})`),
      make("div", { class: "body" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body))));
  }

  function heatMap(clip, match, stream, scale) {
    const { frames: all, pairs } = match.streams[stream];
    const frames = clip.query.count, cell = 40, left = 62, top = 44;
    const [rows, columns] = [all.length, all[0].length];
    const parts = [
      draw("text", { class: "axis", x: left + (cell * columns) / 2, y: 13, "text-anchor": "middle" }, `${kind(columns, frames)} of ${short(match.name)}`),
      draw("text", { class: "axis", x: 13, y: top + (cell * rows) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${top + (cell * rows) / 2})` }, `${kind(rows, frames)} of this clip`),
    ];
    for (let j = 0; j < columns; j++)
      parts.push(draw("text", { class: "axis", x: left + cell * (j + 0.5), y: 36, "text-anchor": "middle" }, entry(j, columns, frames)));
    const chosen = new Set(pairs.map(([i, j]) => `${i},${j}`));
    const frame = [];
    all.forEach((values, i) => {
      parts.push(draw("text", { class: "axis", x: left - 8, y: top + cell * (i + 0.5) + 4, "text-anchor": "end" }, entry(i, rows, frames)));
      values.forEach((distance, j) => {
        const near = scale.nearness(distance), place = { x: left + cell * j, y: top + cell * i, width: cell, height: cell };
        parts.push(draw("rect", { ...place, fill: "none", style: `fill:color-mix(in oklab, var(--near) ${(100 * near).toFixed(0)}%, var(--far))` },
          draw("title", {}, `${entry(i, rows, frames)} and ${entry(j, columns, frames)}: ${number(distance)}`)));
        if (columns <= 10)
          parts.push(draw("text", { x: place.x + cell / 2, y: place.y + cell / 2 + 4, "text-anchor": "middle", "pointer-events": "none", class: near > 0.5 ? "on" : "" },
            distance.toFixed(2).replace(/^(-?)0\./, "$1.")));
        if (chosen.has(`${i},${j}`))
          frame.push(draw("rect", { x: place.x + 2, y: place.y + 2, width: cell - 4, height: cell - 4, class: "matched" }));
      });
    });
    const label = `Distances of every ${kind(rows, frames)} of this clip and of ${match.name}, from ${number(scale.low)} to ${number(scale.high)}`;
    return make("figure", {}, make("figcaption", {}, bdi(match.name, "label")),
      draw("svg", { class: "map", viewBox: `0 0 ${left + cell * columns + 4} ${top + cell * rows + 4}`, role: "img", "aria-label": label }, ...parts, ...frame));
  }

  const short = (text) => (text.length > 24 ? text.slice(0, 23) + "…" : text);

  function partsChart(clip, stream) {
    const values = clip.parts[stream], frames = clip.query.count, [best, second] = clip.matches;
    const width = 60, most = Math.max(1e-9, ...values.map(Math.abs)), scale = 56 / most;
    const middle = 20 + scale * Math.max(0, ...values), bottom = middle + scale * Math.max(0, ...values.map((x) => -x)) + 34;
    const drawn = values.flatMap((value, i) => {
      const size = scale * Math.abs(value), x = width * i;
      return [
        draw("rect", { x: x + 12, width: width - 24, y: value < 0 ? middle : middle - size, height: size }),
        draw("text", { x: x + width / 2, y: value < 0 ? middle + size + 13 : middle - size - 5 }, signed(value)),
        draw("text", { x: x + width / 2, y: bottom, class: "axis" }, entry(i, values.length, frames)),
      ];
    });
    const total = width * values.length;
    const list = values.map((value, i) => `${entry(i, values.length, frames)}: ${signed(value)}`).join(", ");
    const sum = values.reduce((a, b) => a + b, 0);
    const softened = best.streams[stream].metric === "otam" ? ", and the softening of the alignment," : "";
    const rest = Math.abs(clip.rest[stream]) > 5e-4
      ? ` The other direction, from the frames of the two classes to this clip${softened || ","} adds ${signed(clip.rest[stream])}.` : "";
    return make("figure", { class: "chart" },
      make("figcaption", {}, make("b", {}, `What each ${kind(values.length, frames)} of this clip adds to the margin`),
        make("div", { class: "row" }, "up: speaks for ", bdi(best.name), "; down: for ", bdi(second.name), `. Together ${signed(sum)}.${rest}`)),
      draw("svg", { class: "parts", viewBox: `0 0 ${total} ${bottom + 6}`, role: "img", "aria-label": list },
        ...drawn, draw("line", { x1: 0, x2: total, y1: middle, y2: middle })));
  }

  /* Bars from zero on one scale; each row has its name, its parts one behind the other, its value. */
  function bars(rows, limit, label) {
    const sums = rows.map(([, parts]) => parts.reduce((sum, [value]) => sum + value, 0));
    const ends = [...sums, ...rows.flatMap(([, parts]) => parts.map(([value]) => value)), 0];
    const low = Math.min(...ends), high = Math.max(...ends, limit ?? 0), span = (high - low || 1) * 1.04;
    const at = (x) => `${((100 * (x - low)) / span).toFixed(2)}%`;
    const body = rows.map(([name, parts, strong, text], index) => {
      let start = 0;
      const drawn = parts.map(([value, cls, title]) => {
        const [from, to] = value < 0 ? [start + value, start] : [start, start + value];
        start += value;
        return make("span", { class: cls, title: `${title} ${number(value)}`, style: `left:${at(from)};width:${((100 * (to - from)) / span).toFixed(2)}%` });
      });
      if (low < 0) drawn.push(make("i", { style: `left:${at(0)}` }));
      if (limit !== null && limit !== undefined) drawn.push(make("i", { class: "limit", style: `left:${at(limit)}` }));
      return make("tr", {}, make("th", { scope: "row", class: strong ? "strong" : "" }, bdi(name)),
        make("td", {}, make("div", { class: "track" }, ...drawn)), make("td", { class: "value" }, text(sums[index])));
    });
    return make("table", { "aria-label": label }, make("tbody", {}, ...body));
  }

  function legend(streams, limit) {
    const keys = streams.length > 1 ? streams.map((name, i) => make("span", { class: `s${i}` }, name)) : [];
    if (limit !== null) keys.push(make("span", { class: "limit" }, `${number(limit)}: farther is “none of these”`));
    return keys.length ? make("div", { class: "key" }, ...keys) : null;
  }

  function distanceChart(clip) {
    const streams = Object.keys(clip.shares[0][1]);
    const rows = clip.shares.map(([name, parts], place) =>
      [name, streams.map((stream, i) => [parts[stream], `s${i}`, key(stream)]), place === 0, number]);
    const below = rows.some(([, parts]) => parts.some(([value]) => value < 0));
    const more = clip.more ? make("p", { class: "aside" }, `${clip.more} more classes are farther away.`) : null;
    return make("figure", { class: "chart distances" },
      make("figcaption", {}, make("b", {}, "Distance to every class"), make("div", { class: "row" }, below ? "farther to the left is nearer: a similarity with its sign changed" : "shorter is nearer")),
      legend(streams, clip.limit), bars(rows, clip.limit, "Distance to every class"), more);
  }

  function marginChart(clip) {
    const streams = Object.entries(clip.margin), [best, second] = clip.matches;
    const together = streams.reduce((sum, [, value]) => sum + value, 0);
    const rows = streams.map(([name, value], i) => [name, [[value, `s${i}`, name]], false, signed]);
    rows.push(["margin", streams.map(([name, value], i) => [value, `s${i}`, name]), true, () => number(together)]);
    return make("figure", { class: "chart margin" },
      make("figcaption", {}, make("b", {}, "What each stream adds to the margin"),
        make("div", { class: "row" }, "to the right: speaks for ", bdi(best.name), "; to the left: for ", bdi(second.name))),
      bars(rows, null, "What each stream adds to the margin"));
  }

  function render(details) {
    const clip = data.clips[details.dataset.clip], box = details.querySelector(".visual");
    if (box.dataset.done) return;
    box.dataset.done = "1";
    const roles = ["Nearest class:", "Runner-up:"];
    const compared = clip.matches.length ? Object.keys(clip.matches[0].streams).filter((s) => clip.matches[0].streams[s].frames) : [];
    const changing = make("div", { class: "changing" });
    function show(stream) {
      changing.className = `changing ${stream === "motion" && compared.length > 1 ? "motion" : ""}`;
      const tables = clip.matches.map((match) => match.streams[stream]);
      const joined = range(tables.flatMap(({ pairs }) => pairs.map(([, , distance]) => distance)));
      const cells = range(tables.flatMap(({ frames }) => frames.flat()));
      changing.replaceChildren(
        make("div", { class: "pairings" }, ...clip.matches.map((match, i) => pairing(clip, match, roles[i], stream, joined))),
        make("p", { class: "row" }, `Thick lines are near (${number(joined.low)}), thin lines far (${number(joined.high)}); solid lines were chosen from both sides, dashed lines from one.`
          + (tables[0].metric === "otam" ? " They are the best alignment; the method softens over all alignments." : "")),
        clip.parts[stream] ? partsChart(clip, stream) : "",
        make("h4", {}, compared.length > 1 ? `Distances of all frames, ${stream}` : "Distances of all frames"),
        make("div", { class: "scale" }, `near ${number(cells.low)}`, make("i"), `far ${number(cells.high)}`),
        make("div", { class: "maps" }, ...clip.matches.map((match) => heatMap(clip, match, stream, cells))));
      load(changing);
    }
    if (compared.length > 1) {
      const choices = compared.map((stream, i) => {
        const input = make("input", { type: "radio", name: `stream-${details.id}`, value: stream, ...(i ? {} : { checked: "" }) });
        input.addEventListener("change", () => show(stream));
        return make("label", {}, input, ` ${stream}`);
      });
      box.append(make("fieldset", {}, make("legend", {}, "Who matched whom, by"), ...choices));
    }
    box.append(changing);
    if (compared.length) show(compared[0]);
    else {
      const rows = clip.matches.length
        ? clip.matches.map((match, i) => pairing(clip, match, roles[i], "", null))
        : [make("div", { class: "scroll" }, make("div", { class: "strip", style: `--frames:${clip.query.count}` }, ...row(clip.query, false)))];
      const note = clip.matches.length ? make("p", { class: "aside" }, "This method compares whole clips, so no frames were matched with one another.") : "";
      changing.append(make("div", { class: "pairings" }, ...rows), note);
      load(changing);
    }
    const charts = make("div", { class: "charts" }, distanceChart(clip));
    if (Object.keys(clip.margin).length > 1) charts.append(marginChart(clip));
    box.append(charts);
  }

  /* Of many open clips, those are drawn that come near the screen; and all before they are printed. */
  const fillIn = (details) => (details.matches(".clip") ? render(details) : load(details));
  const near = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((each) => each.isIntersecting)) {
      near.unobserve(target);
      fillIn(target);
    }
  }, { rootMargin: "1000px" });
  for (const details of document.querySelectorAll("details.clip, details.class"))
    details.addEventListener("toggle", () => (details.open ? near.observe(details) : near.unobserve(details)));
  for (const details of document.querySelectorAll("details[open]")) fillIn(details);
  addEventListener("beforeprint", () => document.querySelectorAll("details.clip[open], details.class[open]").forEach(fillIn));
  function follow() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) {
      target.open = true;
      target.scrollIntoView();
    }
  }
  addEventListener("hashchange", follow);
  for (const link of document.querySelectorAll('a[href^="#clip-"]')) link.addEventListener("click", () => setTimeout(follow));
  follow();

  for (const hidden of document.querySelectorAll(".buttons, .filter")) hidden.hidden = false;
  for (const button of document.querySelectorAll("[data-open]"))
    button.addEventListener("click", () => {
      for (const details of document.querySelectorAll("details.clip")) details.open = button.dataset.open === "true";
    });

  const listed = document.getElementById("table");
  if (listed) {
    const rows = [...listed.tBodies[0].rows];
    for (const head of listed.tHead.querySelectorAll("th")) {
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending", name = head.dataset.key;
        for (const other of listed.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = new Intl.Collator(undefined, { numeric: true });
        const numeric = name === "probability" || name === "margin";
        const compare = (a, b) => numeric ? a.dataset[name] - b.dataset[name] : order.compare(a.dataset[name], b.dataset[name]);
        listed.tBodies[0].append(...[...rows].sort((a, b) => (up ? 1 : -1) * compare(a, b)));
      });
    }
    const filter = document.getElementById("filter");
    filter?.addEventListener("input", () => {
      const wanted = filter.value.toLocaleLowerCase();
      let shown = 0;
      rows.forEach((line) => {
        line.hidden = ![line.dataset.name, line.dataset.label, line.dataset.truth].some((text) => text.toLocaleLowerCase().includes(wanted));
        const place = line.cells[0].querySelector("a").hash.slice(1);
        document.getElementById(place).hidden = line.hidden;
        shown += line.hidden ? 0 : 1;
      });
      document.getElementById("shown").textContent = wanted ? `${shown} of ${rows.length}` : "";
    });
  }
})();
