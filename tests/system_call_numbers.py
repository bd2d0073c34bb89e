"""Numbers of system calls that no sandbox may make, on x86-64 and aarch64, for who tries them."""

from __future__ import annotations

REFUSED = """
    acct 163 89, add_key 248 217, adjtimex 159 171, bpf 321 280, cachestat 451 451,
    capset 126 91, chroot 161 51, clock_adjtime 305 266, clock_settime 227 112, clone3 435 435,
    delete_module 176 106, fanotify_init 300 262, file_getattr 468 468, file_setattr 469 469,
    finit_module 313 273, fsconfig 431 431, fsmount 432 432, fsopen 430 430, fspick 433 433,
    futex_requeue 456 456, futex_wait 455 455, futex_waitv 449 449, futex_wake 454 454,
    get_robust_list 274 100, getxattrat 464 464, init_module 175 105, inotify_add_watch 254 27,
    inotify_init1 294 26, io_setup 206 0, io_uring_enter 426 426, io_uring_register 427 427,
    io_uring_setup 425 425, ioperm 173 -, iopl 172 -, kcmp 312 272, kexec_file_load 320 294,
    kexec_load 246 104, keyctl 250 219, landlock_create_ruleset 444 444, listmount 458 458,
    listxattrat 465 465, lsm_get_self_attr 459 459, lsm_list_modules 461 461,
    lsm_set_self_attr 460 460, map_shadow_stack 453 453, mbind 237 235, memfd_secret 447 447,
    migrate_pages 256 238, mount 165 40, mount_setattr 442 442, move_mount 429 429,
    move_pages 279 239, mq_notify 244 184, mq_open 240 180, mq_timedreceive 243 183,
    mq_unlink 241 181, mseal 462 462, name_to_handle_at 303 264, open_by_handle_at 304 265,
    open_tree 428 428, open_tree_attr 467 467, perf_event_open 298 241, pidfd_getfd 438 438,
    pivot_root 155 41, process_madvise 440 440, process_mrelease 448 448,
    process_vm_readv 310 270, process_vm_writev 311 271, ptrace 101 117, quotactl 179 60,
    quotactl_fd 443 443, reboot 169 142, removexattrat 466 466, request_key 249 218,
    seccomp 317 277, setns 308 268, settimeofday 164 170, setxattrat 463 463, statmount 457 457,
    swapoff 168 225, swapon 167 224, syslog 103 116, umount2 166 39, unshare 272 97,
    userfaultfd 323 282, vhangup 153 58, vmsplice 278 75
"""
