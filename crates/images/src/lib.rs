//! CRIU's image format: messages, magics, framing, pages.
