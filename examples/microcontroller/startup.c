/* The start of a Cortex-M: the table of vectors, and the memory of C. */
#include <stdint.h>

int32_t net_test(void);
extern uint32_t stack_top, data_start, data_end, data_load;
extern uint32_t bss_start, bss_end;

/* The number of wrong outputs, written once the test has ended. A debugger
   or an emulator finds it at the start of the RAM. */
__attribute__((section(".result"), used)) static volatile int32_t result;

__attribute__((used, noreturn)) void reset(void) {
    uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
    result = net_test();
    for (;;) {
    }
}

/* A fault or another interrupt, which the test does not use. */
__attribute__((noreturn)) static void stop(void) {
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*handlers[15])(void);
} vectors = {
    &stack_top,
    {reset, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop,
     stop, stop, stop},
};

/* Compilers make calls of these two from loops. */
void *memset(void *to, int value, __SIZE_TYPE__ size) {
    volatile uint8_t *bytes = to;
    while (size--) *bytes++ = (uint8_t)value;
    return to;
}
void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
    volatile uint8_t *bytes = to;
    const uint8_t *source = from;
    while (size--) *bytes++ = *source++;
    return to;
}
