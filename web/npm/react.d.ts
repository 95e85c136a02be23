import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type { CarImage } from "./car-image.js";

export * from "./car-image.js";

export interface CarImageAttributes extends HTMLAttributes<CarImage> {
  src?: string;
  alt?: string;
  /** When to restore; default: `visible`. */
  restore?: "visible" | "click" | "now" | "none";
  /** Show a slider; React passes an empty text as the attribute. */
  compare?: boolean | "";
  /** Address of the original, for the slider. */
  original?: string;
  /** Address of the folder of weights. */
  models?: string;
  device?: "cpu" | "gpu";
  controls?: "none";
}

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "car-image": DetailedHTMLProps<CarImageAttributes, CarImage>;
    }
  }
}
