//! Every input in every state.
