export interface Info {
  /** Name of the model that made the small picture. */
  model: string;
  /** First digits of the hash of its weights. */
  weights: string;
  scale: number;
  /** Width and height of the original. */
  size: [number, number];
  grey: boolean;
}

export type State = "preview" | "loading" | "restoring" | "restored" | "failed";

export declare class CarImage extends HTMLElement {
  /** Address of the small picture. */
  src: string;
  /** Metadata of the small picture; null until it is read. */
  readonly info: Info | null;
  readonly state: State;
  /** The element that takes the focus and receives the keys. */
  readonly frame: HTMLElement;
  /** Restore as soon as the picture is in view. */
  restore(): void;
  /** Stop restoring; the tiles that are painted stay. */
  cancel(): void;
  /** Return the restored picture as a file; fails until all of it is restored. */
  toBlob(type?: string): Promise<Blob>;
}

/** Where weights are, by their hash, if not in the folder models/ beside the script. */
export declare const addresses: Map<string, URL>;

declare global {
  interface HTMLElementTagNameMap {
    "car-image": CarImage;
  }
  interface HTMLElementEventMap {
    "car-state": CustomEvent<{ state: State; message: string }>;
    "car-progress": CustomEvent<{ done: number; total: number }>;
  }
}
