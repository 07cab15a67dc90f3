//! CRI v1: messages, client and service traits.
