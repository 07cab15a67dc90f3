//! The kubelet's HTTPS side: routes, authentication, authorization, TLS.
