"use strict";
// Draws the figures of the JSON above, in the page's own colours, and again when the system turns light or dark.
(() => {
  const figures = JSON.parse(document.getElementById("plots").textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function template() {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--muted") };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), family: getComputedStyle(document.body).fontFamily, size: 13 },
        title: { font: { size: 15 } },
        xaxis: { ...axis, zeroline: false },
        yaxis: { ...axis, zeroline: false },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
      },
      data: { heatmap: [{ textfont: { color: colour("--text") } }] },
    };
  }

  function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(id, figure.data, { ...figure.layout, template: template() }, config);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
