//! A program without std that drives the core: if std came in through any dependency, its panic handler would be a
//! second one and the compiler would refuse with E0152.
#![no_std]

extern crate alloc;

use core::alloc::{GlobalAlloc, Layout};

use refrain_core::config::Config;
use refrain_core::journal::Restored;
use refrain_core::names::SiteId;
use refrain_core::port::Now;
use refrain_core::rng::Rng;
use refrain_core::site::Site;

struct NoMemory;

// SAFETY: it never gives out memory.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static MEMORY: NoMemory = NoMemory;

#[panic_handler]
fn stop(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Starts a site and wakes it once; gives the number of effects.
#[unsafe(no_mangle)]
pub extern "C" fn refrain_step() -> usize {
    let Ok(site) = SiteId::parse("ams") else { return 0 };
    let config = Config::new(site.clone(), alloc::vec![site], 1);
    let (mut site, effects) = Site::start(Now::default(), config, Restored::default(), Rng::new(1));
    effects.len() + site.handle_timeout(Now::default()).len()
}
