// The parts of a browser that the modules of the page access when they are loaded.

globalThis.document = {
  documentElement: { dataset: { root: "./" }, lang: "en" },
  getElementById: () => null,
};
globalThis.location = new URL("http://fleet.example:5000/home?x=1");
