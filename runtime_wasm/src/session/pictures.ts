/** The tasks of pictures, which share most of their code, as one script. */

export * from "./ocr.js";
export * from "./similarity.js";
export * from "./vision.js";
