// The theme puts tables and buttons of code into elements of its own, which keyboards cannot scroll and screen readers
// take for navigation of the page.
new MutationObserver(() => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    table.tabIndex = 0;
    table.role = "group";
    table.ariaLabel = "Table";
  }
  for (const buttons of document.querySelectorAll(".md-code__nav:not([role])")) buttons.role = "none";
}).observe(document, { childList: true, subtree: true });
