// Rank the results of the search. Sphinx adds points for a word in a title only once, and sorts equal results by name.
var Scorer = {
  // The values of Sphinx, except for the function below.
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
  // Each word of the query in the title of a page or a section counts, and pages on the project come last.
  score: ([page, title, anchor, description, score]) => {
    const query = new URLSearchParams(location.search).get("q") ?? "";
    const words = query.toLowerCase().split(/[^\p{L}\p{N}_]+/u).filter(word => word.length > 2);
    const found = words.filter(word => title.toLowerCase().includes(word)).length;
    return score + 10 * found - (["changelog", "contributing"].includes(page) ? 10 : 0);
  },
};
