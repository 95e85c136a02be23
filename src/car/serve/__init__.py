"""An HTTP service that shrinks photographs and restores small pictures; docs/serve.md describes it."""
