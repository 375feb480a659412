"""A PC's clock for pyvmm's guests: ``--device rtc``."""

from __future__ import annotations

from pyvmm.plugin import DeviceKind, hookimpl, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_rtc.device import Rtc

__all__ = ["RtcOptions", "pyvmm_device_kinds"]


@options
class RtcOptions:
    """The options of ``rtc``: none."""


def make(options: RtcOptions) -> Rtc:
    """A clock; imported only when a machine has one."""
    from pyvmm_rtc.device import Rtc

    return Rtc()


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[RtcOptions]]:
    """The kind ``rtc``."""
    return [
        DeviceKind(
            "rtc",
            RtcOptions,
            make,
            help="CMOS clock: the guest has the time when it boots",
            kernel_config="CONFIG_RTC_DRV_CMOS",
            process=False,
        )
    ]
