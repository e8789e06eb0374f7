//! The gateway from outside: real sockets on both sides, a simulated agent that speaks the real protocol between them.

mod proxy;
