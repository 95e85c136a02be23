export * from "./car-image.js";
