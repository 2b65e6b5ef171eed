/** The tasks of sounds as one script. */

export * from "./speech.js";
export * from "./speech_detection.js";
