// As much of a browser as the modules of the page look at when they are loaded.

globalThis.document = {
  documentElement: { dataset: { root: "./" }, lang: "en" },
  getElementById: () => null,
};
globalThis.location = new URL("http://fleet.example:5000/home?x=1");
