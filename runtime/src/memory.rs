//! What the allocator keeps of memory that is free.

/// Gives free memory back to the system, after work that needed much for a short time. It takes some milliseconds.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "there is no safe name for it")]
    // SAFETY: it has no conditions, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
