//! Certificate authorities, certificates, tokens and keys at rest.
