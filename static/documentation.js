// Starts Swagger UI on the portal's own OpenAPI document, in the portal's theme.
"use strict";

const root = document.documentElement;
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

// Swagger UI is dark where the page's root has this class.
function followTheme() {
  root.classList.toggle("dark-mode", (root.dataset.theme || (darkSystem.matches ? "dark" : "light")) === "dark");
}

followTheme();
darkSystem.addEventListener("change", followTheme);
new MutationObserver(followTheme).observe(root, { attributeFilter: ["data-theme"] });

addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelExpandDepth: 3,
    defaultModelRendering: "model",
    validatorUrl: null,
  });
});
